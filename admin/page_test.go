package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/misdirected"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// testPage opens the status page in Chromium: it shows what the endpoints say,
// markup from the network as text, and breaks no rule of its policy.
func testPage(t *testing.T, l *live) {
	chromium := needs.Program(t, "chromium", "chromium")
	past.sample(time.Now())
	l.request("shop.admin.test", "shop.admin.test") // a pool to show
	l.request("blog.admin.test", "shop.admin.test")
	past.sample(time.Now())
	resp, err := http.Get(l.admin + base)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; ") || strings.Contains(csp, "unsafe") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
	dom, console := browse(t, chromium, l.admin+base)
	dom = l.normal.Replace(dom)
	for _, want := range []string{
		"<title>connreuse</title>",
		`<th scope="row">UPSTREAM`,
		"idle limit 99.5 s: configured upstream_keep_alive 100 s minus margin 500 ms",
		`aria-label="idle limit 99.5 s of keep-alive 100 s (configured), 1 idle connections"`,
		"(main, tcp/127.0.0.1:HTTPS): https://blog.admin.test:HTTPS<",
		"&lt;img/src=x/onerror=alert(1)&gt;.admin.test",
		"passed, 421 reported",
		">other_host<",
		`aria-label="Requests in the last 10 minutes: `,
		`aria-label="421s in the last 10 minutes: `,
		"<td>1 other host</td>",
		`<th scope="row">blog.admin.test<div class="why">main</div></th><td class="name">lenient.admin.test, shop.admin.test, vault.admin.test</td>`,
		"Sites below share a certificate",
		"is refused</div>",
	} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(dom, "<img") {
		t.Error("markup from the network became an element")
	}
	if strings.Contains(console, "CONSOLE") {
		t.Errorf("the browser complains: %s", console)
	}
	if t.Failed() {
		t.Log(dom)
	}
}

// flags are what Chromium is started with.
func flags(t *testing.T, more ...string) []string {
	return append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=3000"}, more...)
}

// browse returns what a page became, and what Chromium had to say.
func browse(t *testing.T, chromium, address string) (dom, console string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(chromium, flags(t, "--enable-logging=stderr", "--dump-dom", address)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.Contains(line, "CONSOLE") {
			console += line
		}
	}
	return stdout.String(), console
}

// night is an API after a bad night with 1000 upstreams. The page of its first answer
// runs a script of the test, too, for which it does without its policy.
func night(t *testing.T, script string) *httptest.Server {
	t.Helper()
	var pools Upstreams
	for i := range 1000 {
		limit := idletime.DefaultLimit(5*time.Second, time.Millisecond)
		pools.Pools = append(pools.Pools, upstreampool.PoolState{
			Upstream: fmt.Sprintf("db-%03d:80", i), Scheme: "http", Protocol: "http/1.1", Requests: int64(i * 37 % 1000), Races: int64(i % 7),
			ReuseRatio: 0.93, IdleLimit: limit.Value.Seconds(), KeepAlive: 5, Source: "announced", Why: limit.String(),
			Connections: map[string]int{"idle": i % 5, "busy": i % 3}, IdleAges: []float64{0.4, 1.2},
			Closes: map[connpool.CloseReason]int64{connpool.CloseIdleLimit: 3}, Replays: map[replay.Reason]int64{},
		})
	}
	var past History
	past.Every = sampleEvery.Seconds()
	for i := range points {
		p := Point{Time: time.Date(2026, 1, 2, 3, 0, 10*i, 0, time.UTC), Requests: int64(400 + 300*(i%7)), Opened: int64(i % 11), Waits: int64(i % 2), Wait: float64(i%2) * 0.02, Misdirected: map[string]int64{}}
		if i > 40 {
			p.Races, p.Misdirected["other_host"], p.Misdirected["no_sni"] = int64(i%4), int64(i-40), 1
		}
		past.Points = append(past.Points, p)
	}
	answers := map[string]any{
		"explain":   authority.Explanation{Answer: "pass", Why: "no guard runs for this host", Guards: []authority.Verdict{}},
		"upstreams": pools, "history": past, "origins": Origins{Connections: []authority.OriginExplanation{}},
		"misdirected": Misdirected{Requests: []misdirected.Count{}, Refusals: []misdirected.Refusal{}},
		"sites": Sites{Sites: []authority.Site{
			{Server: "srv0", Name: "alone.test", HTTP3: true, Refused: "no", AltSvc: "kept", Covers: []string{}},
			{Server: "srv0", Name: "a.shared.test", HTTP3: true, Refused: "yes", AltSvc: "clear", RefusedSNI: "a.shared.test", RefusedHost: "vault.shared.test", Covers: []string{"vault.shared.test"}, CoversMore: 7},
			{Server: "srv0", Name: "kept.shared.test", HTTP3: true, Refused: "yes", RefusedSNI: "kept.shared.test", RefusedHost: "vault.shared.test", AltSvc: "kept", Covers: []string{}},
			{Server: "srv0", Name: "new.test", Refused: "unknown", Covers: []string{}},
		}},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer, ok := answers[strings.TrimPrefix(r.URL.Path, base)]; ok {
			_ = json.NewEncoder(w).Encode(answer)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, page+"<script>"+script+"</script>")
	}))
	t.Cleanup(s.Close)
	return s
}

// TestPageWithManyUpstreams finds one of 1000 upstreams by typing, and those with the
// most requests, and shows the history as lines and as a table.
func TestPageWithManyUpstreams(t *testing.T) {
	chromium := needs.Program(t, "chromium", "chromium")
	upstreams := regexp.MustCompile(`<th scope="row">(db-\d+):80`)
	for _, test := range []struct {
		name, script string
		shown        int
		first, last  string
		note         string
	}{
		{"all", "", 200, "db-000", "db-199", "800 more: choose fewer above"},
		{"typed", "$('find').text.focus(); document.execCommand('insertText', false, ' DB-77');", 10, "db-770", "db-779", ""},
		{"sorted", "$('find').by.value = 'requests'; $('find').by.dispatchEvent(new Event('input', { bubbles: true }));", 200, "db-027", "db-400", "800 more"},
		{"both", "$('find').by.value = 'requests'; $('find').text.focus(); document.execCommand('insertText', false, 'db-1');", 100, "db-108", "db-190", ""},
		{"none", "$('find').text.focus(); document.execCommand('insertText', false, 'nowhere');", 0, "", "", "None of 1000 is called that."},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := night(t, "setTimeout(() => { "+test.script+" }, 1000)")
			dom, console := browse(t, chromium, s.URL+base)
			var shown []string
			for _, match := range upstreams.FindAllStringSubmatch(dom, -1) {
				shown = append(shown, match[1])
			}
			if len(shown) != test.shown || test.shown > 0 && (shown[0] != test.first || shown[len(shown)-1] != test.last) {
				t.Errorf("%d upstreams are shown: %v; want %d from %s to %s", len(shown), shown, test.shown, test.first, test.last)
			}
			if !strings.Contains(dom, `<p id="pools-note">`+test.note) {
				t.Errorf("the page lacks the note %q", test.note)
			}
			if console != "" {
				t.Errorf("the browser complains: %s", console)
			}
			if test.name != "all" {
				return
			}
			for _, want := range []string{
				`aria-label="Races in the last 10 minutes: 30, at most 3 in 10 s"`, `aria-label="421s in the last 10 minutes: 209, at most 20 in 10 s"`,
				`aria-label="Mean wait for a connection in the last 10 minutes: at most 20 ms"`, "<td>1 times, 20 ms on average</td><td>1 no sni, 19 other host</td>",
				"vault.shared.test and 7 more", "withdrawn by misdirected with alt_svc auto", "a request for vault.shared.test on a connection for a.shared.test is refused",
				"no certificate of it is known (yet)", `kept.shared.test<div class="why">srv0</div></th><td class="name">no other site</td><td>on<div`,
			} {
				if !strings.Contains(dom, want) {
					t.Errorf("the page lacks %s", want)
				}
			}
		})
	}
}

// TestPageInLightAndDark takes pictures: the page is as light, or dark, as asked for.
// CONNREUSE_PICTURES names a folder to keep them in.
func TestPageInLightAndDark(t *testing.T) {
	chromium := needs.Program(t, "chromium", "chromium")
	dir := os.Getenv("CONNREUSE_PICTURES")
	if dir == "" {
		dir = t.TempDir()
	}
	s := night(t, "")
	for name, scheme := range map[string]string{"light": "1", "dark": "0"} {
		file := filepath.Join(dir, name+".png")
		cmd := exec.Command(chromium, flags(t, "--blink-settings=preferredColorScheme="+scheme, "--hide-scrollbars", "--window-size=1280,1400", "--screenshot="+file, s.URL+base)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		picture, err := png.Decode(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		r, g, b, _ := picture.At(3, 3).RGBA()
		if bright := (r + g + b) / 3 >> 8; (bright > 128) != (name == "light") {
			t.Errorf("%s: the ground has brightness %d of 255", name, bright)
		}
	}
}
