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
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// An HTTP/2 connection that drains, with an event stream still open, takes no
// place under max_conns_per_host.
//
// Checklist: P26.
func TestDrainingConnectionTakesNoPlace(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*upstreampool.Transport)
		path   string // of the request that ends the connection
	}{
		{"GOAWAY", nil, "/goaway"},
		{"max_lifetime", func(tr *upstreampool.Transport) {
			tr.MaxLifetime = caddy.Duration(300 * time.Millisecond)
			tr.MaxLifetimeJitter = new(int)
		}, "/"},
		{"max_requests", func(tr *upstreampool.Transport) { tr.MaxRequests = 2 }, "/"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			end := make(chan struct{})
			l := listen(t, nil)
			serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/stream":
					_ = http.NewResponseController(w).Flush()
					<-end
				case "/goaway":
					w.Header().Set("Connection", "close") // becomes a GOAWAY
				}
				_, _ = w.Write([]byte("x"))
			}, nil)
			tr := newTransport(t, func(tr *upstreampool.Transport) {
				overH2C(tr)
				tr.MaxConnsPerHost = 1
				if test.change != nil {
					test.change(tr)
				}
			})
			request := func(path string) *http.Request {
				req := newRequest(t, t.Context(), "GET", addr(l), nil)
				req.URL.Path = path
				return req
			}
			stream, err := tr.RoundTrip(request("/stream"))
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Body.Close()
			mustSend(t, tr, request(test.path), 0)
			time.Sleep(350 * time.Millisecond)
			for range 3 {
				if r := send(tr, request("/")); !r.ok() {
					t.Errorf("beside a connection that drains: %v", r)
				}
			}
			close(end)
			if b, err := io.ReadAll(stream.Body); err != nil || string(b) != "x" {
				t.Errorf("the stream of the draining connection ended with %q, %v", b, err)
			}
		})
	}
}

// A cold burst of more requests than an upstream allows streams waits for further
// connections, never for a stream beside free ones.
//
// Checklist: P27.
func TestColdBurstAboveStreamLimit(t *testing.T) {
	for _, test := range []struct {
		name           string
		limit, clients int
	}{{"limit 10", 10, 20}, {"limit 1", 1, 5}} {
		t.Run(test.name, func(t *testing.T) {
			var arrived atomic.Int64
			l := listen(t, nil)
			var all atomic.Pointer[chan struct{}]
			serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
				gate := *all.Load()
				if arrived.Add(1) == int64(test.clients) {
					close(gate)
				}
				select {
				case <-gate:
					_, _ = w.Write([]byte("x"))
				case <-r.Context().Done():
				}
			}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: test.limit} })
			for burst := range 10 { // it takes luck
				gate := make(chan struct{})
				all.Store(&gate)
				arrived.Store(0)
				ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
				results := together(t, newTransport(t, overH2C), test.clients, func(int) *http.Request {
					return newRequest(t, ctx, "GET", addr(l), nil)
				})
				cancel()
				if n, r := failures(results); n > 0 {
					t.Fatalf("burst %d: %d of %d requests arrived: %v", burst, arrived.Load(), test.clients, r)
				}
			}
		})
	}
}

// An upstream with one stream per connection is learned: the second burst does
// not try to put more on one.
//
// Checklist: P27.
func TestStreamLimitOfOne(t *testing.T) {
	l := listen(t, nil)
	serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(100 * time.Millisecond)
		_, _ = w.Write([]byte("x"))
	}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1} })
	tr := newTransport(t, overH2C)
	for burst := range 3 {
		for _, r := range together(t, tr, 10, func(int) *http.Request {
			return newRequest(t, t.Context(), "GET", addr(l), nil)
		}) {
			if !r.ok() {
				t.Fatalf("burst %d: %v", burst, r)
			}
			if !r.within(1500 * time.Millisecond) {
				t.Errorf("burst %d: a request of 100 ms: %v", burst, r)
			}
		}
	}
}

// A GOAWAY refuses all requests on a connection at once. They share new ones, and do not
// wait for one each, since SETTINGS may take their time.
//
// Checklist: P8.
func TestRefusedRequestsShareConnections(t *testing.T) {
	const requests = 40
	l := listen(t, func(n int64, c net.Conn) net.Conn {
		if n == 1 {
			go refuseAll(c)
			return nil
		}
		return &slowStart{Conn: c}
	})
	serve(t, l, false, hello, nil)
	results := together(t, newTransport(t, overH2C), requests, func(i int) *http.Request {
		return newRequest(t, t.Context(), []string{"GET", "POST"}[i%2], addr(l), strings.NewReader("x"))
	})
	if n, r := failures(results); n > 0 {
		t.Errorf("%d of %d requests failed: %v", n, requests, r)
	}
	if n := l.Accepted.Load(); n > requests/4 { // one each would be as many as there are requests
		t.Errorf("%d connections for %d refused requests", n, requests)
	}
}

// refuseAll refuses the requests on a connection, once there are no more for a moment.
func refuseAll(c net.Conn) {
	p, err := h2.Server(c, c)
	for err == nil {
		_, err = p.Next()
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	}
	_ = p.WriteGoAway(0, http2.ErrCodeNo, nil)
	_ = c.SetReadDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, c)
}

// The SETTINGS of a slowStart come late.
type slowStart struct {
	net.Conn
	once sync.Once
}

func (c *slowStart) Write(p []byte) (int, error) {
	c.once.Do(func() { time.Sleep(100 * time.Millisecond) })
	return c.Conn.Write(p)
}

// The upstream's idle clock runs from the end of the last stream, even while a slow
// client still reads the response. A connection that is too old by that clock gets
// no POST.
func TestAgeCountsWhileSlowClientReads(t *testing.T) {
	t.Parallel()
	const keepAlive = time.Second
	var late atomic.Int64
	l := listen(t, func(_ int64, c net.Conn) net.Conn { return &impatient{Conn: c, after: keepAlive, late: &late} })
	serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write([]byte(strings.Repeat("x", 30_000)))
	}, nil)
	tr := newTransport(t, func(tr *upstreampool.Transport) {
		overH2C(tr)
		tr.UpstreamKeepAlive = caddy.Duration(keepAlive)
		tr.MaxIdleTime = caddy.Duration(keepAlive - time.Millisecond)
	})
	slow, err := tr.RoundTrip(newRequest(t, t.Context(), "GET", addr(l), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	if _, err := io.ReadFull(slow.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(keepAlive + 300*time.Millisecond)
	if r := send(tr, newRequest(t, t.Context(), "POST", addr(l), strings.NewReader("order"))); !r.ok() {
		t.Errorf("POST beside a response that is still read: %v", r)
	}
	if late.Load() > 0 {
		t.Error("a request arrived on a connection that the upstream was closing")
	}
}

// An impatient connection is being closed as soon as it has been idle for a time,
// without a GOAWAY: what arrives later meets a reset.
type impatient struct {
	net.Conn
	after time.Duration
	late  *atomic.Int64

	last atomic.Int64 // the time of the last write
}

func (c *impatient) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.last.Store(time.Now().UnixNano())
	return n, err
}

func (c *impatient) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	last := c.last.Load()
	// The server reads the 9 bytes of a frame's header by themselves.
	if headers := n == 9 && p[3] == 1; headers && last > 0 && time.Since(time.Unix(0, last)) > c.after {
		c.late.Add(1)
		fake.Reset(c.Conn)
		return 0, net.ErrClosed
	}
	return n, err
}
