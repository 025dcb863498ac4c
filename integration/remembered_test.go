package integration

import (
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

const fleetHost = "app.example.com"

// A fleet is machines that share a storage, in front of an upstream that each finds
// at the same address.
type fleet struct {
	t       *testing.T
	recipe  recipe
	replace *strings.Replacer
	storage string
	addr    string
	closes  time.Duration // when the upstream closes idle connections
	posts   atomic.Int64  // POSTs that it did
}

func newFleet(t *testing.T, r recipe, closes time.Duration) *fleet {
	f := &fleet{t: t, recipe: r, storage: t.TempDir(), closes: closes}
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == "POST" {
			f.posts.Add(1)
		}
	}))
	up.Config.IdleTimeout = closes
	up.Start()
	t.Cleanup(up.Close)
	f.addr = up.Listener.Addr().String()
	f.replace = strings.NewReplacer("/mnt/caddy", f.storage, "127.0.0.1:3000", f.addr)
	return f
}

// start starts the Caddy of a machine, whose own data is in a folder.
func (f *fleet) start(data string) *caddy {
	f.t.Helper()
	return f.recipe.startWith(f.t, []string{"XDG_DATA_HOME=" + data}, f.replace, fleetHost)
}

// ask sends a request and reports whether it was answered.
func (f *fleet) ask(c *caddy, method string) bool {
	f.t.Helper()
	transport := &http.Transport{TLSClientConfig: clientTLS(fleetHost)}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(method, "https://"+c.addr, strings.NewReader("x"))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Host = fleetHost
	resp, err := transport.RoundTrip(req)
	if err != nil {
		f.t.Errorf("%s: %v", method, err)
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		f.t.Errorf("%s: %s", method, resp.Status)
	}
	return resp.StatusCode == http.StatusOK
}

// source is where a machine's knowledge of the upstream comes from.
func (f *fleet) source(c *caddy) string {
	f.t.Helper()
	var answer struct {
		Pools []struct{ Upstream, Source string }
	}
	if err := json.Unmarshal([]byte(c.get("/connreuse/upstreams")), &answer); err != nil {
		f.t.Fatal(err)
	}
	for _, p := range answer.Pools {
		if p.Upstream == f.addr {
			return p.Source
		}
	}
	return ""
}

// learns has a machine find out the timeout, and waits until it is stored.
func (f *fleet) learns(c *caddy) {
	f.t.Helper()
	before := f.stored()
	for began := time.Now(); f.source(c) != "learned"; time.Sleep(f.closes + 300*time.Millisecond) {
		if time.Since(began) > time.Minute {
			f.t.Fatal("the timeout is not learned")
		}
		f.ask(c, "GET")
	}
	poll.Until(f.t, "what was learned is stored", func() bool { return f.stored() > before })
}

// files calls what for the path of each stored value.
func (f *fleet) files(what func(path string)) {
	_ = filepath.WalkDir(filepath.Join(f.storage, "connreuse"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(path, ".json") {
			what(path)
		}
		return nil
	})
}

// stored is how many values are in the storage.
func (f *fleet) stored() (n int) {
	f.files(func(path string) {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), `"keep_alive"`) {
			n++
		}
	})
	return n
}

// TestRestartedProcess restarts Caddy, which knows the timeout of its upstream at
// once: in the first minute, no POST at the boundary fails. What is corrupted
// meanwhile costs one warning.
func TestRestartedProcess(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	f := newFleet(t, readRecipe(t, "A fleet with shared storage"), 2*time.Second)
	data := t.TempDir()
	first := f.start(data)
	f.learns(first)
	first.stop()

	c := f.start(data)
	began := time.Now()
	f.ask(c, "POST")
	poll.Until(t, "the timeout is known", func() bool { return f.source(c) != "assumed" })
	sent := f.posts.Load()
	for i := 0; time.Since(began) < time.Minute; i++ {
		const together = 4
		var batch sync.WaitGroup
		for range together {
			batch.Go(func() { f.ask(c, "POST") })
		}
		batch.Wait()
		sent += together
		if source := f.source(c); source == "assumed" {
			t.Errorf("%v after the start, nothing is known", time.Since(began))
		}
		offsets := []time.Duration{-600, -300, -150, -100, -50, -10, 0, 20, 100}
		time.Sleep(f.closes + offsets[i%len(offsets)]*time.Millisecond)
	}
	if n := f.posts.Load(); n != sent {
		t.Errorf("%d POSTs were done, want %d", n, sent)
	}
	c.stop()

	f.files(func(path string) {
		if err := os.WriteFile(path, []byte(`{"version":1,`), 0o600); err != nil {
			t.Error(err)
		}
	})
	c = f.start(data)
	for range 5 {
		f.ask(c, "POST")
	}
	const warning = "what is remembered of an upstream is invalid"
	poll.Until(t, "a warning", func() bool { return len(c.logged(warning)) > 0 })
	f.learns(c) // and the value is written anew
	if n := len(c.logged(warning)); n != 1 {
		t.Errorf("%d warnings of a corrupted value, want one", n)
	}
}
