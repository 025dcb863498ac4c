package blackbox

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }

// A balancer sends one connection in four to a server that accepts it and stays
// silent. Requests that wait for that connection get another one.
//
// Checklist: P23.
func TestSilentBackendDelaysNobody(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		secure bool
		silent func(net.Conn)
		change func(*upstreampool.Transport)
		rounds int
		limit  time.Duration // a further dial is begun after a second at most
		sent   bool          // before the silence: the first request of a connection cannot know
	}{
		{"TLS handshake", true, nil, overTLS, 20, 6 * time.Second, false}, // it is given up after ten
		{"HTTP/2 preface", false, nil, overH2C, 10, 3 * time.Second, true},
		{"HTTP/2 preface over TLS", true, handshake, overTLS, 10, 3 * time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var silent atomic.Int64
			l := listen(t, func(n int64, c net.Conn) net.Conn {
				if n%4 == 1 {
					silent.Add(1)
					if test.silent != nil {
						go test.silent(c)
					}
					return nil
				}
				return c
			})
			serve(t, l, test.secure, hello, nil)
			tr := newTransport(t, func(tr *upstreampool.Transport) {
				test.change(tr)
				tr.MaxRequests = 25 // connections come and go
			})
			const clients = 20
			late, failed := 0, 0
			for range test.rounds {
				ctx, cancel := context.WithTimeout(t.Context(), test.limit)
				for _, r := range together(t, tr, clients, func(int) *http.Request {
					return newRequest(t, ctx, "GET", addr(l), nil)
				}) {
					switch {
					case errors.Is(r.err, context.DeadlineExceeded):
						late++
					case !r.ok():
						failed++
					}
				}
				cancel()
			}
			allowed := 0
			if test.sent {
				allowed = int(silent.Load())
			}
			if late+failed > allowed {
				t.Errorf("%d of %d requests took more than %v and %d failed, want at most %d: %d connections were silent",
					late, test.rounds*clients, test.limit, failed, allowed, silent.Load())
			}
		})
	}
}

// handshake does TLS, tickets included, for HTTP/2, and is silent then.
func handshake(c net.Conn) {
	cert, err := testcert.SelfSigned("localhost")
	if err == nil {
		_, _ = io.Copy(io.Discard, tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}))
	}
}

// One dial is refused while fifty requests wait for it: at most one of them may
// fail.
//
// Checklist: P23.
func TestFailedDialFailsAtMostOneRequest(t *testing.T) {
	var refuse atomic.Bool
	_, tr, get := resettable(t, func() bool { return refuse.CompareAndSwap(true, false) })
	refuse.Store(true)
	if n, r := failures(together(t, tr, 50, get)); n > 1 {
		t.Errorf("%d of 50 requests failed with one dial: %v", n, r)
	}
}

// An upstream resets every handshake: requests that wait together hear of it together,
// and not one after the other, though each error names another port of ours.
//
// Checklist: P23.
func TestRequestsHearOfFailedHandshakesTogether(t *testing.T) {
	var sick atomic.Bool
	l, tr, get := resettable(t, sick.Load)
	before := l.Accepted.Load()
	sick.Store(true)
	n, r := failures(together(t, tr, 50, get))
	if n < 48 { // two may find a connection that takes one more
		t.Fatalf("%d of 50 requests failed, one with %v", n, r)
	}
	if dials := l.Accepted.Load() - before; dials > 20 { // two, and a few more where the machine is busy
		t.Errorf("%d requests failed after %d dials", n, dials)
	}
}

// resettable returns an upstream whose handshakes are reset when reset says so, once
// everyone waits, and a transport that knows already that it speaks HTTP/2. A connection
// takes two requests.
func resettable(t *testing.T, reset func() bool) (*fake.Listener, *upstreampool.Transport, func(int) *http.Request) {
	l := listen(t, func(_ int64, c net.Conn) net.Conn {
		if !reset() {
			return c
		}
		time.Sleep(50 * time.Millisecond) // everyone waits by then
		fake.Reset(c)
		return nil
	})
	serve(t, l, true, hello, nil)
	tr := newTransport(t, func(tr *upstreampool.Transport) {
		overTLS(tr)
		tr.MaxRequests = 2
	})
	get := func(int) *http.Request { return newRequest(t, t.Context(), "GET", addr(l), nil) }
	if n, r := failures(together(t, tr, 2, get)); n > 0 {
		t.Fatal(r)
	}
	return l, tr, get
}

// A failed handshake is a failed dial, which lb_retries takes elsewhere whatever
// the method, unless the body is gone.
func TestFailedHandshakeIsDialError(t *testing.T) {
	l := listen(t, func(_ int64, c net.Conn) net.Conn {
		fake.Reset(c)
		return nil
	})
	serve(t, l, true, hello, nil)
	tr := newTransport(t, overTLS)
	r := send(tr, newRequest(t, t.Context(), "POST", addr(l), strings.NewReader("x")))
	if _, ok := errors.AsType[reverseproxy.DialError](r.err); !ok {
		t.Errorf("%v (%T), want a DialError", r.err, r.err)
	}
}

// The dial of a request whose client left fails. Another request, which came
// later, is not told of it.
func TestFailedDialOfGoneRequestFailsNoOther(t *testing.T) {
	fail := make(chan struct{})
	l := listen(t, func(n int64, c net.Conn) net.Conn {
		if n > 1 {
			return c
		}
		go func() {
			<-fail
			fake.Reset(c)
		}()
		return nil
	})
	serve(t, l, true, hello, nil)
	tr := newTransport(t, overTLS)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan result, 1)
	first := newRequest(t, ctx, "GET", addr(l), nil)
	go func() { gone <- send(tr, first) }()
	poll.Until(t, "a dial", func() bool { return l.Accepted.Load() == 1 })
	leave()
	if r := <-gone; r.ok() {
		t.Fatal("the first request was answered")
	}
	time.AfterFunc(100*time.Millisecond, func() { close(fail) })
	if r := send(tr, newRequest(t, t.Context(), "GET", addr(l), nil)); !r.ok() {
		t.Errorf("a request after one that left: %v", r)
	}
}

// Dials for min_idle that fail become rarer: an upstream that is gone is not
// called every second.
//
// Checklist: P28.
func TestMinIdleBacksOffFromFailedDials(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	gone := make(chan struct{})
	l := listen(t, func(n int64, c net.Conn) net.Conn {
		select {
		case <-gone:
			fake.Reset(c)
			return nil
		default:
			return c
		}
	})
	serve(t, l, true, hello, nil)
	tr := newTransport(t, func(tr *upstreampool.Transport) {
		overTLS(tr)
		tr.Versions = []string{"1.1"}
		tr.MinIdle = 2
		tr.MaxRequests = 1
	})
	mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0)
	poll.Until(t, "idle connections", func() bool { return l.Open.Load() >= 2 })
	close(gone)
	l.CloseConns()
	time.Sleep(8 * time.Second)
	before := l.Accepted.Load()
	time.Sleep(8 * time.Second)
	// With pauses of 1, 2, 4, 8 s there is one round in this time.
	if n := l.Accepted.Load() - before; n > 4 {
		t.Errorf("%d dials in 8 s towards an upstream that has been gone for as long, want at most 4", n)
	}
}

// After a reload min_idle keeps connections to an upstream only once a request
// has asked for it again: the reload may have removed it.
func TestMinIdleEndsWithReload(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "x")
		}
	})
	const size = 5 << 20
	warm := func(tr *upstreampool.Transport) { tr.MinIdle, tr.MaxResponseHeaderSize = 2, size }
	before := newReloadable(t, warm)
	mustSend(t, before, newRequest(t, t.Context(), "GET", addr(l), nil), 0)
	poll.Until(t, "idle connections", func() bool { return l.Open.Load() >= 2 })
	newReloadable(t, warm)
	if err := before.Cleanup(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // dials that have begun
	n := l.Accepted.Load()
	time.Sleep(6 * time.Second) // unused connections are replaced every 4 s
	if more := l.Accepted.Load() - n; more > 0 {
		t.Errorf("%d connections opened after the reload, without a request", more)
	}
}

// newReloadable is newTransport for a transport that a test cleans up by itself.
func newReloadable(t testing.TB, change func(*upstreampool.Transport)) *upstreampool.Transport {
	tr := &upstreampool.Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	change(tr)
	provision(t, tr)
	return tr
}
