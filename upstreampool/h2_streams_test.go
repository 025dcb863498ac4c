package upstreampool

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
)

// A burst towards a server known to speak HTTP/2 opens one connection.
func TestH2OneDialAtATime(t *testing.T) {
	srv, conns := tlsServer(t, "h2")
	tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.MaxRequests = 1 })
	addr := srv.Listener.Addr().String()
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	eventually(t, "no connection", func() bool { return len(tr.core.all()) == 0 })
	tr.core.group.Config().MaxRequests = 0
	before := conns.Load()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { mustSend(t, tr, newRequest(t, "GET", addr, nil)) })
	}
	wg.Wait()
	if n := conns.Load() - before; n != 1 {
		t.Errorf("%d connections for a burst, want one", n)
	}
}

// A connection carries no more requests than it may, also when many wait as it
// is opened: with keepalive off they failed with 502.
func TestH2RequestsPerConnection(t *testing.T) {
	off := false
	for _, tc := range []struct {
		name   string
		change func(*Transport)
		most   int
		reason connpool.CloseReason
	}{
		{"keepalive off", func(tr *Transport) { tr.KeepAlive = &reverseproxy.KeepAlive{Enabled: &off} }, 1, connpool.CloseRequested},
		{"max_requests 1", func(tr *Transport) { tr.MaxRequests = 1 }, 1, connpool.CloseMaxRequests},
		{"max_requests 2", func(tr *Transport) { tr.MaxRequests = 2 }, 2, connpool.CloseMaxRequests},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			carried := make(map[int64]int)
			s := serveFrames(t, func(c *frameConn) {
				for _, stream := range c.requests() {
					mu.Lock()
					carried[c.n]++
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
					c.respond(stream, "")
				}
			})
			tr := newTransport(t, func(tr *Transport) { tr.Versions = []string{"h2c"}; tc.change(tr) })
			tg := tr.mustTarget(t, s.addr())
			p := tr.core.pool(&tg)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, _, err := send(tr, newRequest(t, "POST", s.addr(), nil)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			mu.Lock()
			defer mu.Unlock()
			for n, requests := range carried {
				if requests > tc.most {
					t.Errorf("connection %d carried %d requests, want at most %d", n, requests, tc.most)
				}
			}
			eventually(t, "all are closed for that", func() bool { return p.snapshot().Closes[tc.reason] == int64(20/tc.most) })
		})
	}
}

// More requests than streams: those that do not fit wait, or get another
// connection, and none fails.
func TestH2StreamLimit(t *testing.T) {
	for _, maxConns := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(maxConns), func(t *testing.T) {
			s := serveFrames(t, func(c *frameConn) {
				for _, stream := range c.requests() {
					time.Sleep(time.Millisecond)
					c.respond(stream, "")
				}
			}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
			tr := newTransport(t, func(tr *Transport) { h2c(tr); tr.MaxConnsPerHost = maxConns })
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() { mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)) })
			}
			wg.Wait()
			state := onlyPool(t, tr).snapshot()
			if n := s.conns.Load(); maxConns > 0 && n > int64(maxConns) || n > 41 {
				t.Errorf("%d connections: %+v", n, state)
			}
			if state.Connections["busy"] != 0 {
				t.Errorf("connections = %v", state.Connections)
			}
		})
	}
}

// A response that has arrived, but that a slow client has not read yet, holds no
// stream: other requests got 503, or a connection of their own.
func TestH2ArrivedResponseHoldsNoStream(t *testing.T) {
	for _, waits := range []bool{false, true} {
		t.Run(fmt.Sprintf("someone waits=%v", waits), func(t *testing.T) {
			release := make(chan struct{})
			s := serveFrames(t, func(c *frameConn) {
				for i, stream := range c.requests() {
					if i == 1 {
						<-release
					}
					c.respond(stream, "body")
				}
			}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
			tr := newTransport(t, h2cAtMost(1))
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			p := onlyPool(t, tr)
			slow, next := make(chan *http.Response, 1), make(chan error, 1)
			go func() {
				resp, err := tr.RoundTrip(newRequest(t, "GET", s.addr(), nil))
				if err != nil {
					t.Error(err)
				}
				slow <- resp
			}()
			eventually(t, "the stream is in use", func() bool { return p.snapshot().Connections["busy"] == 1 })
			ask := func() { _, _, err := send(tr, newRequest(t, "GET", s.addr(), nil)); next <- err }
			if waits {
				go ask()
				eventually(t, "a request waits", func() bool { return p.snapshot().Waiting == 1 })
			}
			close(release)
			resp := <-slow
			if resp == nil {
				return
			}
			defer resp.Body.Close()
			if !waits {
				time.Sleep(50 * time.Millisecond) // the stream ends, though nobody has read it
				go ask()
			}
			if err := <-next; err != nil {
				t.Errorf("with a free stream: %v", err)
			}
		})
	}
}

// A stream that its request gave up before using it, cancelled as it was granted,
// goes to whoever waits: it waited for a stream that was free, or for ever.
func TestH2UnusedStreamServesAWaiter(t *testing.T) {
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			if i != 1 { // the second request is never answered
				c.respond(stream, "")
			}
		}
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	tr := newTransport(t, h2cAtMost(1))
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	p := onlyPool(t, tr)
	hang(t, tr, s.addr())
	eventually(t, "one stream is in use", func() bool { return p.snapshot().Connections["busy"] == 1 })
	var l connpool.Lease
	err := p.Acquire(t.Context(), connpool.Need{}, &l) // the other one
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := send(tr, newRequest(t, "GET", s.addr(), nil)); done <- err }()
	eventually(t, "a request waits", func() bool { return p.snapshot().Waiting == 1 })
	l.Unused()
	if err := <-done; err != nil {
		t.Errorf("with a free stream: %v", err)
	}
}

func TestH2Cancel(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Hang") != "" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "ok")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	defer close(release)
	tr := newTransport(t, insecure)
	addr := srv.Listener.Addr().String()
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	for range 20 {
		ctx, cancel := contextWithTimeout(t, 5*time.Millisecond)
		req := requestTo(t, ctx, "GET", "tcp", addr, nil)
		req.Header.Set("Hang", "1")
		if _, _, err := send(tr, req); err == nil {
			t.Error("no error")
		}
		cancel()
	}
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	p := onlyPool(t, tr)
	if st := p.snapshot(); st.Connections["busy"] != 0 || st.Opened != 1 || len(st.Replays) != 0 {
		t.Errorf("state = %+v", st)
	}
}
