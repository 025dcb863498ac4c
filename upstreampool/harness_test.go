package upstreampool

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/socket"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

func init() { connpool.Strict = true }

// newTransport returns a provisioned transport of its own: its pools are shared
// with no other.
func newTransport(t testing.TB, change func(*Transport)) *Transport {
	t.Helper()
	tr := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	if change != nil {
		change(tr)
	}
	provision(t, tr)
	return tr
}

var unique atomic.Int64

// verbose shows the log, to find out why a test fails.
var verbose = os.Getenv("UPSTREAMPOOL_LOG") != ""

func provision(t testing.TB, tr *Transport) {
	t.Helper()
	if tr.MaxResponseHeaderSize == 0 {
		tr.MaxResponseHeaderSize = 10<<20 + unique.Add(1) // makes the JSON unique
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := tr.Provision(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	if tr.core != nil {
		if !verbose {
			tr.core.users.last.Store(zap.NewNop())
		}
	}
	t.Cleanup(func() {
		_ = tr.Cleanup()
		cancel()
	})
}

// newRequest returns a request as reverse_proxy would hand it to a transport.
func newRequest(t testing.TB, method, addr string, body io.Reader) *http.Request {
	return requestTo(t, t.Context(), method, "tcp", addr, body)
}

func requestTo(t testing.TB, ctx context.Context, method, network, addr string, body io.Reader) *http.Request {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	if network == "unix" {
		host = addr
	}
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, dialInfoKey, reverseproxy.DialInfo{
		Upstream: &reverseproxy.Upstream{Dial: addr}, Network: network, Address: addr, Host: host, Port: port,
	})
	req, err := http.NewRequestWithContext(ctx, method, "http://h/", body)
	if err != nil {
		t.Fatal(err)
	}
	req.GetBody = nil // requests of a server have none
	req.URL.Scheme, req.URL.Host, req.Host = "", addr, "h.test"
	return req
}

// send sends a request and returns status and body, or the error.
func send(tr http.RoundTripper, req *http.Request) (int, string, error) {
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return resp.StatusCode, string(b), err
}

func mustSend(t testing.TB, tr http.RoundTripper, req *http.Request) string {
	t.Helper()
	status, body, err := send(tr, req)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s: status %d, body %q, error %v", req.Method, status, body, err)
	}
	return body
}

// pool returns the only pool of tr.
func onlyPool(t testing.TB, tr *Transport) *pool {
	t.Helper()
	ps := tr.core.all()
	if len(ps) != 1 {
		t.Fatalf("%d pools, want 1", len(ps))
	}
	return ps[0]
}

// acquire gets a connection of p.
func acquire(t testing.TB, p *pool, n connpool.Need) connpool.Lease {
	t.Helper()
	var l connpool.Lease
	if err := p.Acquire(t.Context(), n, &l); err != nil {
		t.Error(err)
	}
	return l
}

// dialed returns a connection to addr as net/http makes it, over h2c or HTTP/1.
func dialed(t testing.TB, addr string, h2 bool) *http.ClientConn {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	if tr.Protocols.SetHTTP1(!h2); h2 {
		//lint:ignore SA1019 Caddy configures HTTP/2 like this
		if err := http2.ConfigureTransport(tr); err != nil {
			t.Fatal(err)
		}
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	c, err := tr.NewClientConn(t.Context(), "http", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (p *pool) snapshot() PoolState { return p.state(time.Now(), p.HTTP2(), p.Snapshot()) }

// needsSocketLook skips what only a look into the socket can tell: bytes that no
// goroutine has read yet. Systems other than Unix give none, nor does the build tag
// nosocket, with which their code is tested here.
func needsSocketLook(t *testing.T) {
	t.Helper()
	if !socket.Looks {
		t.Skip("this build cannot look into sockets")
	}
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	poll.Until(t, what, ok)
}

// awaitReturn waits until a connection of ours that is on its way back is idle, without an
// object or a pause.
func awaitReturn(t testing.TB, tr http.RoundTripper) {
	t.Helper()
	ours, ok := tr.(*Transport)
	if !ok {
		return
	}
	for start := time.Now(); ours.core.group.Idle() == 0; runtime.Gosched() {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("no connection is idle: %+v", States())
		}
	}
}

// A rawServer serves raw HTTP/1 connections with a function.
type rawServer struct {
	net.Listener
	conns atomic.Int64
	wg    sync.WaitGroup
	mu    sync.Mutex
	open  []net.Conn
}

// serveRaw starts a server on loopback that calls handle for each connection,
// with its number from 1.
func serveRaw(t testing.TB, handle func(n int64, c net.Conn, r *bufio.Reader)) *rawServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveListener(t, l, handle)
}

func serveListener(t testing.TB, l net.Listener, handle func(n int64, c net.Conn, r *bufio.Reader)) *rawServer {
	s := &rawServer{Listener: l}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			n := s.conns.Add(1)
			s.wg.Go(func() {
				defer c.Close()
				handle(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.open {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *rawServer) addr() string { return s.Addr().String() }

// rst closes c with a reset.
func rst(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

type bufioReader = bufio.Reader

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func (t *Transport) mustTarget(tb testing.TB, addr string) target {
	req := newRequest(tb, "GET", addr, nil)
	t.setScheme(req)
	var tg target
	if err := t.target(req, &tg); err != nil {
		tb.Fatal(err)
	}
	return tg
}
