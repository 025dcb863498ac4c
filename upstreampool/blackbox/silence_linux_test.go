package blackbox

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// soon is unacked_timeout in tests that need not wait for the default.
const soon = 2 * time.Second

// A way is what connections may be made of. What silence tells must be seen through all
// that is in between.
type way struct {
	name   string
	secure bool
	change func(*upstreampool.Transport)
}

var ways = []way{
	{"h1", false, nil},
	{"h1 with read and write timeouts", false, func(tr *upstreampool.Transport) {
		tr.ReadTimeout, tr.WriteTimeout = caddy.Duration(time.Hour), caddy.Duration(time.Hour)
	}},
	{"h1 over TLS", true, func(tr *upstreampool.Transport) { overTLS(tr); tr.Versions = []string{"1.1"} }},
	{"h2c", false, overH2C},
	{"h2", true, overTLS},
	{"h2 with read and write timeouts", true, func(tr *upstreampool.Transport) {
		overTLS(tr)
		tr.ReadTimeout, tr.WriteTimeout = caddy.Duration(time.Hour), caddy.Duration(time.Hour)
	}},
}

// eachWay runs a test for each of them, at the same time.
func eachWay(t *testing.T, run func(t *testing.T, way way)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			run(t, w)
		})
	}
}

// A path is a listener whose connections can be lost.
type path struct {
	*fake.Listener
	t *testing.T

	mu    sync.Mutex
	conns []net.Conn
}

func newPath(t *testing.T) *path {
	p := &path{t: t}
	p.Listener = listen(t, func(_ int64, c net.Conn) net.Conn {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.conns = append(p.conns, c)
		return c
	})
	return p
}

// each does something to each connection that was accepted so far.
func (p *path) each(do func(any) error) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if err := do(c); err != nil && !strings.Contains(err.Error(), "closed") {
			p.t.Error(err)
		}
	}
}

// lose drops what arrives on the connections that there are. New ones are well.
func (p *path) lose() { p.t.Helper(); p.each(fake.Deafen) }

// An upstream answers requests, and counts the POSTs that it has seen.
type upstream struct {
	posts atomic.Int64
	burst sync.WaitGroup // of requests for /burst, which are answered once all are there
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		u.posts.Add(1)
	}
	switch r.URL.Path {
	case "/burst":
		u.burst.Done()
		u.burst.Wait()
	case "/events":
		for ; r.Context().Err() == nil; time.Sleep(100 * time.Millisecond) {
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, "x")
}

// aboutSilence returns a transport that keeps connections for as long as they live.
func aboutSilence(t *testing.T, change func(*upstreampool.Transport)) *upstreampool.Transport {
	return newTransport(t, func(tr *upstreampool.Transport) {
		tr.UpstreamKeepAlive = caddy.Duration(time.Hour)
		tr.UnackedTimeout = caddy.Duration(soon)
		if change != nil {
			change(tr)
		}
	})
}

// A request that meets a connection whose packets are dropped is given up after
// unacked_timeout. One that may be repeated is, and gets its answer.
//
// Checklist: P29, P6.
func TestLostRequestIsGivenUp(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, way way) {
		p, u := newPath(t), new(upstream)
		serve(t, p, way.secure, u.ServeHTTP, nil)
		tr := aboutSilence(t, way.change)
		mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(p), nil), 0)
		for _, method := range []string{"GET", "POST"} {
			p.lose()
			r := send(tr, newRequest(t, t.Context(), method, addr(p), nil))
			if r.took < soon {
				t.Errorf("%s: given up too early: %v", method, r)
			}
			if !r.within(2 * soon) {
				t.Errorf("%s: given up too late: %v", method, r)
			}
			if method == "GET" && !r.ok() {
				t.Errorf("GET was not repeated: %v", r)
			}
			if method == "POST" && (r.err == nil || !strings.Contains(r.err.Error(), "acknowledged nothing for 2s (unacked_timeout)")) {
				t.Errorf("POST: %v", r)
			}
		}
		if n := u.posts.Load(); n > 0 {
			t.Errorf("the upstream saw %d POSTs", n)
		}
		mustSend(t, tr, newRequest(t, t.Context(), "POST", addr(p), nil), time.Second)
	})
}

// The same holds for an upload whose path dies half-way, and for the first request
// on a connection.
//
// Checklist: P29, P6.
func TestLostUploadIsGivenUp(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, way way) {
		p, u := newPath(t), new(upstream)
		serve(t, p, way.secure, u.ServeHTTP, nil)
		tr := aboutSilence(t, way.change)
		body, w := io.Pipe()
		go func() {
			defer w.Close()
			_, _ = w.Write(make([]byte, 10_000))
			poll.Until(t, "the upstream has the request", func() bool { return u.posts.Load() == 1 })
			p.lose()
			_, _ = w.Write(make([]byte, 10_000))
		}()
		r := send(tr, newRequest(t, t.Context(), "POST", addr(p), body))
		if r.err == nil || !strings.Contains(r.err.Error(), "unacked_timeout") || !r.within(3*soon) {
			t.Errorf("POST: %v", r)
		}
		if n := u.posts.Load(); n != 1 {
			t.Errorf("the upstream saw %d POSTs", n)
		}
	})
}

// One dead connection tells of the others: twenty of them do not fail twenty POSTs.
// Their path may drop packets, or the host may have started anew, and knows of none.
//
// Checklist: P29.
func TestFirstDeadConnectionTellsOfOthers(t *testing.T) {
	t.Parallel()
	for _, end := range []struct {
		name string
		do   func(any) error
	}{
		{"dropped", fake.Deafen},
		{"restarted", fake.Vanish},
	} {
		t.Run(end.name, func(t *testing.T) {
			needs.Root(t, "ending a connection without a word")
			p, u := newPath(t), new(upstream)
			serve(t, p, false, u.ServeHTTP, nil)
			tr := aboutSilence(t, nil)
			const burst = 20
			u.burst.Add(burst)
			if n, one := failures(together(t, tr, burst, func(int) *http.Request {
				req := newRequest(t, t.Context(), "GET", addr(p), nil)
				req.URL.Path = "/burst"
				return req
			})); n > 0 {
				t.Fatal(one)
			}
			open := p.Open.Load()
			poll.Until(t, "all connections are idle", func() bool { return idle(addr(p)) == open })
			p.each(end.do)
			failed := 0
			for range 20 {
				if r := send(tr, newRequest(t, t.Context(), "POST", addr(p), nil)); !r.ok() {
					failed++
				}
			}
			if failed != 1 {
				t.Errorf("%d of 20 POSTs failed with %d idle connections, want 1", failed, open)
			}
		})
	}
}

// An HTTP/2 connection on a dead path is not used for ever by requests that are given
// up sooner than anything could be noticed.
//
// Checklist: P29.
func TestSilentConnectionIsLeft(t *testing.T) {
	t.Parallel()
	p, u := newPath(t), new(upstream)
	serve(t, p, false, u.ServeHTTP, nil)
	tr := aboutSilence(t, overH2C)
	mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(p), nil), 0)
	p.lose()
	lost := 0
	for ; lost < 20 && p.Accepted.Load() == 1; lost++ {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		send(tr, newRequest(t, ctx, "POST", addr(p), nil))
		cancel()
	}
	if lost > 10 {
		t.Errorf("%d requests in a row met the dead connection", lost)
	}
	mustSend(t, tr, newRequest(t, t.Context(), "POST", addr(p), nil), 0)
}

// idle returns how many connections to an upstream the pools call idle.
func idle(upstream string) (n int64) {
	for _, p := range upstreampool.States() {
		if p.Upstream == upstream {
			n += int64(p.Connections["idle"])
		}
	}
	return n
}

// A host that is gone answers nothing, not even a dial. Requests learn that as soon as
// dial_timeout allows, and are answered again once it is back.
//
// Checklist: P29.
func TestHostGone(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, way way) {
		p, u := newPath(t), new(upstream)
		serve(t, p, way.secure, u.ServeHTTP, nil)
		tr := aboutSilence(t, func(tr *upstreampool.Transport) {
			tr.DialTimeout = caddy.Duration(300 * time.Millisecond)
			if way.change != nil {
				way.change(tr)
			}
		})
		request := func(int) *http.Request { return newRequest(t, t.Context(), "POST", addr(p), nil) }
		together(t, tr, 5, request)
		seen := u.posts.Load()
		if err := fake.Deafen(p.Listener); err != nil {
			t.Fatal(err)
		}
		p.lose()
		slow := 0
		for range 10 {
			r := send(tr, request(0))
			if r.ok() {
				t.Error(r)
			}
			if !r.within(time.Second) {
				slow++
			}
		}
		if slow > 1 {
			t.Errorf("%d of 10 requests waited for longer than a dial", slow)
		}
		if err := fake.Hear(p.Listener); err != nil {
			t.Fatal(err)
		}
		mustSend(t, tr, request(0), 2*time.Second)
		if n := u.posts.Load(); n != seen+1 {
			t.Errorf("the upstream saw %d POSTs, want %d", n, seen+1)
		}
	})
}
