package upstreampool

import (
	"bufio"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/test/apart"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// What was learned is in the storage, and the next process knows it at once.
func TestRememberedOverRestarts(t *testing.T) {
	if apart.Process(t) {
		return
	}
	t.Setenv("HOME", t.TempDir()) // the instance's id is there
	t.Setenv("XDG_DATA_HOME", os.Getenv("HOME"))
	const keepAlive = 800 * time.Millisecond
	s := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		for {
			_ = c.SetReadDeadline(time.Now().Add(keepAlive))
			if fake.ReadRequest(r) == nil {
				return
			}
			fake.Respond(c, "x")
		}
	})
	url := ""
	ask := func() {
		req, _ := http.NewRequest("GET", url, nil)
		if resp, _ := fetch(t, client(t, false), req); resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	source := func() idletime.Source {
		for _, state := range States() {
			if state.Upstream == s.addr() {
				return state.Source
			}
		}
		return ""
	}
	stored := func() (files []string) {
		_ = filepath.WalkDir(storageOf(t), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.Contains(path, "connreuse") {
				text, _ := os.ReadFile(path)
				files = append(files, string(text))
			}
			return nil
		})
		return files
	}
	// Each configuration has a port of its own: a server that stops may still accept a
	// connection, and hangs up when it has read the request.
	run := func(transport, upstream string) { url = runCaddy(t, freePort(t), transport, "", upstream) }
	run("", s.addr())
	for ask(); source() != idletime.SourceLearned; ask() {
		time.Sleep(keepAlive + 300*time.Millisecond)
	}
	eventually(t, "it is stored", func() bool { // a file is there before its text is
		files := stored()
		return len(files) == 1 && strings.Contains(files[0], s.addr()) && strings.Contains(files[0], `"keep_alive"`)
	})
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	stopCaddy(t)
	run("", s.addr())
	ask()
	eventually(t, "it is known again", func() bool { return source() == idletime.SourceRemembered })

	// Without the option nothing is read, and with placeholders neither.
	for name, caddyOf := range map[string]func(){
		"off":            func() { run(`,"remember":false`, s.addr()) },
		"a placeholder":  func() { run(`,"max_requests":1000`, "127.0.0.1:{http.request.header.Port}") },
		"another server": func() { run(`,"max_requests":2000`, strings.Replace(s.addr(), "127.0.0.1", "localhost", 1)) },
	} {
		caddyOf()
		req, _ := http.NewRequest("GET", url, nil)
		req.Header.Set("Port", s.addr()[strings.LastIndex(s.addr(), ":")+1:])
		if resp, _ := fetch(t, client(t, false), req); resp.StatusCode != 200 {
			t.Fatalf("%s: status %d", name, resp.StatusCode)
		}
		time.Sleep(200 * time.Millisecond)
		for _, state := range States() {
			if state.Source == idletime.SourceRemembered {
				t.Errorf("%s: the timeout of %s is remembered", name, state.Upstream)
			}
		}
	}
}

func TestAddressesOf(t *testing.T) {
	var h reverseproxy.Handler
	t.Setenv("UPSTREAM", "app.test:8080")
	for _, dial := range []string{"{env.UPSTREAM}", "127.0.0.1:8080", "tcp/[::1]:8080", "unix//run/app.sock", "{http.request.host}:80", "h.test:{port}", "h.test:1-3"} {
		h.Upstreams = append(h.Upstreams, &reverseproxy.Upstream{Dial: dial})
	}
	want := []address{{"tcp", "app.test:8080"}, {"tcp", "127.0.0.1:8080"}, {"tcp", "[::1]:8080"}, {"unix", "/run/app.sock"}}
	if got := addressesOf(&h); !slices.Equal(got, want) {
		t.Errorf("addressesOf = %v, want %v", got, want)
	}
}
