package blackbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// Bursts of POSTs towards an upstream of unknown timeout do not open a connection
// each for ever: connections that were seen to live for longer are evidence.
func TestBurstsOfPostsReuseConnections(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	l := listen(t, nil)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			time.Sleep(20 * time.Millisecond)
			fake.Respond(c, "x")
		}
	})
	tr := newTransport(t, nil)
	const bursts, size = 15, 20
	for range bursts {
		if n, r := failures(together(t, tr, size, func(int) *http.Request {
			return newRequest(t, t.Context(), "POST", addr(l), strings.NewReader("x"))
		})); n > 0 {
			t.Fatal(r)
		}
		time.Sleep(1200 * time.Millisecond)
	}
	if n := l.Accepted.Load(); n > bursts*size/2 {
		t.Errorf("%d connections for %d POSTs in %d bursts, want at most half", n, bursts*size, bursts)
	}
}

// Clients that choose server names bound neither descriptors nor the reuse of
// others: of all idle connections the oldest leave first.
//
// Checklist: P28.
func TestMadeUpServerNames(t *testing.T) {
	const most = 10
	l := listen(t, nil)
	serve(t, l, true, hello, nil)
	tr := newTransport(t, func(tr *upstreampool.Transport) {
		overTLS(tr)
		tr.TLS.ServerName = "{name}"
		tr.KeepAlive = &reverseproxy.KeepAlive{MaxIdleConns: most}
	})
	get := func(name string) {
		req := newRequest(t, t.Context(), "GET", addr(l), nil)
		req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Set("name", name)
		mustSend(t, tr, req, 0)
	}
	for i := range 3 * most {
		get(fmt.Sprintf("made-up-%d.test", i))
	}
	poll.Until(t, fmt.Sprintf("at most %d connections", most), func() bool { return l.Open.Load() <= most })
	before := l.Accepted.Load()
	for range 20 {
		get("real.test")
		time.Sleep(time.Millisecond)
	}
	if n := l.Accepted.Load() - before; n > 2 {
		t.Errorf("%d connections for 20 requests to one name beside %d made-up ones, want 1", n, 3*most)
	}
}

// A request whose client is gone takes no connection, and so destroys none.
//
// Checklist: P22.
func TestCanceledRequestsCostNoConnection(t *testing.T) {
	l := listen(t, nil)
	serve(t, l, false, hello, nil)
	tr := newTransport(t, nil)
	mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0)
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 20 {
		if r := send(tr, newRequest(t, gone, "GET", addr(l), nil)); r.ok() {
			t.Fatal("a request whose client is gone was answered")
		}
		mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0)
	}
	if n := l.Accepted.Load(); n > 1 {
		t.Errorf("%d connections for 21 requests, beside 20 whose client was gone; want 1", n)
	}
}

// HTTP/3 lets clients send what net/http cannot send on: a body that is shorter or longer
// than its Content-Length, or a trailer of a name that no trailer may have. net/http then
// closes the upstream connection. That says nothing of the upstream: its connections
// are used on. The request is not repeated, and was no failed dial.
//
// Checklist: P6.
func TestRequestsThatCannotBeSentTeachNothing(t *testing.T) {
	wrongLength := func(n int64) func(*http.Request) { return func(r *http.Request) { r.ContentLength = n } }
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
	}{
		{"a short body", wrongLength(100)},
		{"a long body", wrongLength(2)},
		{"a trailer that may not be one", func(r *http.Request) {
			r.Trailer, r.ContentLength = http.Header{"Content-Length": nil}, -1
		}},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, h2 %v", tc.name, h2), func(t *testing.T) {
				l := listen(t, nil)
				var puts atomic.Int64
				serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
					if r.Method == "PUT" {
						puts.Add(1)
					}
					_, _ = io.Copy(io.Discard, r.Body)
					hello(w, r)
				}, nil)
				var change func(*upstreampool.Transport)
				if h2 {
					change = overH2C
				}
				tr := newTransport(t, change)
				get := func() { mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0) }
				const times = 25
				for range times {
					get()
					req := newRequest(t, t.Context(), "PUT", addr(l), strings.NewReader("abc"))
					tc.change(req)
					r := send(tr, req) // the upstream may have answered what it got of a long body
					if _, dial := errors.AsType[reverseproxy.DialError](r.err); dial || r.err == nil && tc.name != "a long body" {
						t.Fatalf("PUT: %v", r)
					}
				}
				before := l.Accepted.Load()
				for range 10 {
					get()
				}
				if n := l.Accepted.Load() - before; n > 1 {
					t.Errorf("%d connections for 10 requests then, want 1", n)
				}
				if n := puts.Load(); n > times {
					t.Errorf("the upstream saw %d of %d requests", n, times)
				}
				if n := before; n > times+1 {
					t.Errorf("%d connections for %d such requests", n, times)
				}
			})
		}
	}
}

// An HTTP/1.0 error page in front of an HTTP/1.1 upstream does not make uploads
// fail.
//
// Checklist: P18.
func TestErrorPageInHTTP10FailsNoUpload(t *testing.T) {
	l := listen(t, nil)
	l.ServeRaw(func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := fake.ReadRequest(r)
			switch {
			case req == nil:
				return
			case req.Method == "GET":
				fmt.Fprint(c, "HTTP/1.0 503 Service Unavailable\r\n\r\nbusy")
				return
			}
			b, _ := io.ReadAll(req.Body)
			fake.Respond(c, fmt.Sprint(len(b)))
		}
	})
	tr := newTransport(t, nil)
	_ = send(tr, newRequest(t, t.Context(), "GET", addr(l), nil))
	const size = 1 << 20
	req := newRequest(t, t.Context(), "POST", addr(l), io.MultiReader(strings.NewReader(strings.Repeat("x", size))))
	req.ContentLength, req.TransferEncoding = -1, []string{"chunked"}
	if r := send(tr, req); !r.ok() || r.body != fmt.Sprint(size) {
		t.Errorf("upload after an error page in HTTP/1.0: %v", r)
	}
}

// A chunked upload reaches a server that is known to speak HTTP/1.0 with its
// length and its body.
//
// Checklist: P18.
func TestChunkedUploadToHTTP10(t *testing.T) {
	l := listen(t, nil)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		var b []byte
		if req.TransferEncoding == nil { // HTTP/1.0 knows none
			b, _ = io.ReadAll(req.Body)
		}
		fmt.Fprintf(c, "HTTP/1.0 200 OK\r\n\r\n%s", b)
	})
	tr := newTransport(t, nil)
	_ = mustSend(t, tr, newRequest(t, t.Context(), "GET", addr(l), nil), 0)
	req := newRequest(t, t.Context(), "POST", addr(l), io.MultiReader(strings.NewReader("an order")))
	req.ContentLength, req.TransferEncoding = -1, []string{"chunked"} // as net/http's server makes them
	if r := send(tr, req); !r.ok() || r.body != "an order" {
		t.Errorf("chunked upload to an HTTP/1.0 server: %v", r)
	}
}

// A request body is not kept for as long as its response streams.
func TestKeptBodyIsFreedWithTheResponse(t *testing.T) {
	const streams, size = 200, 60 << 10
	inUse := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	heap := func(tr http.RoundTripper) int64 {
		goroutines, before := runtime.NumGoroutine(), inUse()
		end := make(chan struct{})
		l := listen(t, nil)
		serve(t, l, false, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			<-end
		}, nil)
		var bodies []io.Closer
		for range streams {
			resp, err := tr.RoundTrip(newRequest(t, t.Context(), "PUT", addr(l), io.NopCloser(strings.NewReader(strings.Repeat("x", size)))))
			if err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, resp.Body)
		}
		more := inUse() - before
		close(end)
		for _, b := range bodies {
			_ = b.Close()
		}
		l.CloseConns() // or they would count in what comes next
		poll.Until(t, "the connections to end", func() bool { return runtime.NumGoroutine() < goroutines+streams })
		return more
	}
	stock := heap(newStock(t, nil))
	ours := heap(newTransport(t, nil))
	if more := (ours - stock) / streams; more > 8<<10 {
		t.Errorf("%d bytes more per streaming response than with transport http, want at most 8 KiB", more)
	}
}
