package blackbox

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// workers serves raw connections with a limited number of workers, as prefork
// servers do: a connection holds a worker until it is closed.
func workers(t testing.TB, n int, header ...string) *fake.Listener {
	t.Helper()
	l := listen(t, nil)
	l.ServeWorkers(n, header...)
	return l
}

// An upstream that serves one connection at a time is not kept from its work by
// connections that carry no request.
//
// Checklist: P25.
func TestUpstreamWithOneConnection(t *testing.T) {
	t.Parallel()
	cert, err := testcert.SelfSigned("localhost")
	if err != nil {
		t.Fatal(err)
	}
	minIdle := func(tr *upstreampool.Transport) { tr.MinIdle = 1 }
	for _, test := range []struct {
		name    string
		pause   time.Duration
		methods []string
		secure  bool // TLS waits for the worker, too
		change  func(*upstreampool.Transport)
	}{
		{"an idle connection too old for a POST", 900 * time.Millisecond, []string{"GET", "POST", "POST"}, false, nil},
		{"a sensor", 4500 * time.Millisecond, []string{"GET", "GET", "GET"}, false, nil},
		{"TLS, and one too old", 900 * time.Millisecond, []string{"GET", "POST", "POST"}, true, overTLS},
		{"TLS, and a sensor", 4500 * time.Millisecond, []string{"GET", "GET", "GET"}, true, overTLS},
		{"one too old, and one that is kept warm", 900 * time.Millisecond, []string{"GET", "POST", "POST"}, false, minIdle},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, func(_ int64, c net.Conn) net.Conn {
				if test.secure {
					return tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
				}
				return c
			})
			l.ServeWorkers(1)
			tr := newTransport(t, test.change)
			for i, method := range test.methods {
				if i > 0 {
					time.Sleep(test.pause)
				}
				done := make(chan result, 1)
				go func() { done <- send(tr, newRequest(t, t.Context(), method, addr(l), strings.NewReader("x"))) }()
				select {
				case r := <-done:
					if !r.ok() {
						t.Fatalf("request %d: %v", i, r)
					}
				case <-time.After(3 * time.Second):
					t.Fatalf("request %d, a %s: no answer within 3 s", i, method)
				}
			}
		})
	}
}

// A client that gives up shows nothing about the upstream: connections stay beside those
// that carry a first request.
func TestClientThatGivesUpMakesNoUpstreamSerial(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Header.Get("Wait") != "" {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, "x")
	}, nil)
	tr := newTransport(t, nil)
	beside := func(ctx context.Context, wait bool) result { // on a new connection, beside an idle one
		mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0)
		time.Sleep(900 * time.Millisecond) // too old for a POST
		req := newRequest(t, ctx, "POST", addr(l), strings.NewReader("x"))
		if wait {
			req.Header.Set("Wait", "1")
		}
		return send(tr, req)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2100*time.Millisecond) // 1.2 s after it is sent
	defer cancel()
	if r := beside(ctx, true); r.ok() {
		t.Fatal(r)
	}
	time.Sleep(time.Second)
	if r := beside(t.Context(), false); !r.ok() || l.Open.Load() != 2 {
		t.Errorf("%v, and %d connections are open, want 2", r, l.Open.Load())
	}
}

// Two workers and one client that posts now and then: no POST waits for a worker
// that an idle connection holds.
//
// Checklist: P25.
func TestUpstreamWithTwoWorkers(t *testing.T) {
	t.Parallel()
	l := workers(t, 2)
	tr := newTransport(t, nil)
	for i := range 6 {
		r := mustSend(t, tr, newRequest(t, t.Context(), "POST", addr(l), strings.NewReader("x")), 0)
		if !r.within(2 * time.Second) {
			t.Errorf("POST %d: %v", i, r)
		}
		time.Sleep(700 * time.Millisecond)
	}
}

// As many POSTs at once as there are workers, all of which idle connections hold that are
// too old for a POST: none waits for the others, whichever of them the upstream serves first.
//
// Checklist: P25.
func TestAllWorkersHeldByIdleConnections(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 4} {
		for _, pause := range []time.Duration{900 * time.Millisecond, 4500 * time.Millisecond} {
			t.Run(fmt.Sprintf("%d workers, after %s", n, pause), func(t *testing.T) {
				t.Parallel()
				l := workers(t, n)
				tr := newTransport(t, nil)
				for i, method := range []string{"GET", "POST", "POST"} {
					if i > 0 {
						time.Sleep(pause)
					}
					answers := make(chan result, n)
					for range n {
						go func() { answers <- send(tr, newRequest(t, t.Context(), method, addr(l), strings.NewReader("x"))) }()
					}
					for range n {
						select {
						case r := <-answers:
							if !r.ok() || !r.within(2*time.Second) {
								t.Errorf("round %d, a %s: %v", i, method, r)
							}
						case <-time.After(8 * time.Second):
							t.Fatalf("round %d, a %s: no answer", i, method)
						}
					}
				}
			})
		}
	}
}

// A burst leaves idle connections that hold all workers of the upstream. They are
// let go within seconds, so that others get a worker, too.
func TestIdleConnectionsAboveTheNeedAreClosed(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	const all = 70
	l := listen(t, nil)
	places := make(chan struct{}, all)
	var burst sync.WaitGroup
	burst.Add(all)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		places <- struct{}{}
		defer func() { <-places }()
		for req := fake.ReadRequest(r); req != nil; req = fake.ReadRequest(r) {
			if req.Method == "GET" {
				burst.Done()
				burst.Wait()
			}
			fake.Respond(c, "x", "Connection: keep-alive", "Keep-Alive: timeout=60")
		}
	})
	tr := newTransport(t, nil)
	if n, r := failures(together(t, tr, all, func(int) *http.Request {
		return newRequest(t, t.Context(), "GET", addr(l), nil)
	})); n > 0 {
		t.Fatal(r)
	}
	time.Sleep(10 * time.Second)
	start := time.Now()
	direct, err := net.Dial("tcp", addr(l))
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	if _, err := direct.Write([]byte("HEAD / HTTP/1.1\r\nHost: h.test\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = direct.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := direct.Read(make([]byte, 1)); err != nil {
		t.Errorf("a request past the proxy, 10 s after a burst: no answer after %s, %d connections are open: %v",
			time.Since(start), l.Open.Load(), err)
	}
}

// An upstream closes right after each response and does not say so. After the
// first connections the pool does not count on them any more.
func TestUpstreamThatClosesAfterEachResponse(t *testing.T) {
	// Closes that a busy machine delayed, for longer than there are between a response
	// and the next request: no pool can foresee them.
	var late atomic.Int64
	l := listen(t, nil)
	l.ServeRaw(func(n int64, c net.Conn, r *bufio.Reader) {
		if fake.ReadRequest(r) == nil {
			return
		}
		fake.Respond(c, "x")
		responded := time.Now()
		time.Sleep(time.Duration(n%5) * 100 * time.Microsecond)
		_ = c.Close()
		if time.Since(responded) > time.Millisecond {
			late.Add(1)
		}
	})
	tr := newTransport(t, nil)
	failed := 0
	for i := range 2000 {
		r := send(tr, newRequest(t, t.Context(), "POST", addr(l), strings.NewReader("x")))
		if !r.ok() && i >= 40 { // twenty connections
			failed++
		}
	}
	// Who counts on connections loses half of the POSTs.
	if allowed := 2 + int(late.Load()); failed > allowed {
		t.Errorf("%d of the last 1960 POSTs failed, want at most %d", failed, allowed)
	}
}

// A client whose second request on each connection makes the upstream close it does not
// end reuse for all others.
func TestRequestsThatEndConnectionsHarmNoOthers(t *testing.T) {
	l := listen(t, nil)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		for {
			req := fake.ReadRequest(r)
			if req == nil || req.Header.Get("Crash") != "" {
				return
			}
			fake.Respond(c, "x")
		}
	})
	tr := newTransport(t, nil)
	get := func() { mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0) }
	attack := func() {
		for range 40 {
			get()
			req := newRequest(t, t.Context(), "POST", addr(l), strings.NewReader("x"))
			req.Header.Set("Crash", "1")
			send(tr, req)
		}
	}
	attack()
	poll.Until(t, "connections are reused", func() bool {
		get()
		before := l.Accepted.Load()
		get()
		return l.Accepted.Load() == before
	})
	attack()
	get()
	before := l.Accepted.Load()
	for range 20 {
		get()
	}
	if n := l.Accepted.Load() - before; n > 2 {
		t.Errorf("%d connections for 20 requests after another attack", n)
	}
}
