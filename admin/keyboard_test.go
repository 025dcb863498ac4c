package admin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// A tab is a page in Chromium, over the DevTools protocol: messages of JSON, each with
// a zero behind it, on two pipes.
type tab struct {
	t       *testing.T
	to      io.Writer
	from    *bufio.Reader
	session string
	id      int
}

// openTab opens a page, and ends Chromium with the test.
func openTab(t *testing.T, address string) *tab {
	t.Helper()
	chromium := needs.Program(t, "chromium", "chromium")
	theirsIn, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, theirsOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(), "--window-size=1280,1400", "--remote-debugging-pipe")
	cmd.ExtraFiles = []*os.File{theirsIn, theirsOut} // descriptors 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirsIn.Close()
	theirsOut.Close()
	b := &tab{t: t, to: to, from: bufio.NewReader(from)}
	t.Cleanup(func() {
		b.do("Browser.close", nil)
		_ = cmd.Wait()
		to.Close()
		from.Close()
	})
	target := b.do("Target.createTarget", map[string]any{"url": address})["targetId"]
	b.session = b.do("Target.attachToTarget", map[string]any{"targetId": target, "flatten": true})["sessionId"].(string)
	return b
}

// do sends a command and returns its result.
func (b *tab) do(method string, params map[string]any) map[string]any {
	b.t.Helper()
	b.id++
	message := map[string]any{"id": b.id, "method": method}
	if params != nil {
		message["params"] = params
	}
	if b.session != "" && method != "Browser.close" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(text, 0)); err != nil {
		b.t.Fatal(err)
	}
	for {
		text, err := b.from.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var answer struct {
			ID     int
			Result map[string]any
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			b.t.Fatal(err)
		}
		if answer.ID != b.id {
			continue // an event
		}
		if answer.Error != nil {
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		return answer.Result
	}
}

// value evaluates an expression.
func (b *tab) value(expression string) any {
	b.t.Helper()
	result, _ := b.do("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true})["result"].(map[string]any)
	return result["value"]
}

// keys are those that type no text.
var keys = map[string]map[string]any{
	"Tab":       {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9},
	"Enter":     {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"},
	"ArrowDown": {"key": "ArrowDown", "code": "ArrowDown", "windowsVirtualKeyCode": 40},
}

// press presses and releases a key; shift is held meanwhile.
func (b *tab) press(name string, shift bool) {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		event := map[string]any{"type": kind}
		maps.Copy(event, keys[name])
		if shift {
			event["modifiers"] = 8
		}
		if kind == "keyUp" {
			delete(event, "text")
		}
		b.do("Input.dispatchKeyEvent", event)
	}
}

// write types text, key by key.
func (b *tab) write(text string) {
	b.t.Helper()
	for _, r := range text {
		b.do("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": string(r), "text": string(r)})
		b.do("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": string(r)})
	}
}

// focus says what has the focus, and whether that can be seen.
func (b *tab) focus() string {
	b.t.Helper()
	return fmt.Sprint(b.value(`(() => {
		const e = document.activeElement, style = getComputedStyle(e);
		const seen = e.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
		return e.tagName.toLowerCase() + ' ' + (e.name || (e.tagName === 'SUMMARY' || e.tagName === 'BUTTON' ? e.textContent : '')) + (seen ? '' : ' unseen');
	})()`))
}

// tabTo presses Tab until something has the focus, for one turn around the page.
func (b *tab) tabTo(name string) {
	b.t.Helper()
	for range 20 {
		if b.focus() == name {
			return
		}
		b.press("Tab", false)
	}
	b.t.Fatalf("%s never has the focus", name)
}

// until waits for an expression to be true.
func (b *tab) until(expression string) {
	b.t.Helper()
	poll.Succeed(b.t, expression, func() error {
		if got := b.value(expression); got != true {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
}

// TestPageByKeyboard does all that the page offers without a mouse: each thing has its
// turn, in the order in which it stands there, shows that it has the focus, and keeps
// it while the page is refreshed.
func TestPageByKeyboard(t *testing.T) {
	s := night(t, "")
	b := openTab(t, s.URL+base)
	const rows = "document.querySelectorAll('#pools tr').length"
	b.until(rows + " === 200")

	var order []string
	for range 7 {
		b.press("Tab", false)
		order = append(order, b.focus())
	}
	const want = "summary As a table, input text, select by, input server, input sni, input host, button Explain"
	if got := strings.Join(order, ", "); got != want {
		t.Fatalf("the order is %s, want %s", got, want)
	}

	b.tabTo("summary As a table")
	b.press("Enter", false)
	b.until("document.querySelector('details').open && document.querySelectorAll('#history tr').length === 60")

	b.press("Tab", false)
	b.write("db-1")
	b.until(rows + " === 100")
	b.press("Tab", false)
	b.press("ArrowDown", false) // by requests
	b.until("$('find').by.value === 'requests' && document.querySelector('#pools th').textContent.startsWith('db-108:80')")
	b.press("Tab", true)
	b.write("db-108") // in place of the text that was there, which is selected
	b.until(rows + " === 1")

	asked := time.Now()
	b.value("window.before = $('fresh').textContent")
	b.until("$('fresh').textContent !== window.before") // it is refreshed
	if got := b.focus(); got != "input text" {
		t.Errorf("after a refresh %s later, %s has the focus", time.Since(asked), got)
	}

	b.tabTo("input host")
	b.write("shop.test")
	b.press("Enter", false)
	b.until("$('explanation').textContent.includes('pass: no guard runs for this host')")
}
