// Package blackbox tests upstreampool's Transport from outside: it is
// provisioned, sent requests, and judged by what upstreams see and clients get.
// Nothing here knows how the pool works.
package blackbox

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
	"github.com/caddy-connreuse/connreuse/internal/test/standstill"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // net/http's servers tell of handshakes that fail
	parallel.AtLeast(64)      // those that wait only; the others do not call t.Parallel
	needs.Main(m)
}

var unique atomic.Int64

// newTransport returns a provisioned transport whose pools are shared with no
// other.
func newTransport(t testing.TB, change func(*upstreampool.Transport)) *upstreampool.Transport {
	t.Helper()
	tr := &upstreampool.Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	tr.MaxResponseHeaderSize = 10<<20 + unique.Add(1) // makes the JSON unique
	if change != nil {
		change(tr)
	}
	provision(t, tr)
	return tr
}

// newStock returns a provisioned `transport http`, to compare with.
func newStock(t testing.TB, change func(*reverseproxy.HTTPTransport)) *reverseproxy.HTTPTransport {
	t.Helper()
	tr := new(reverseproxy.HTTPTransport)
	if change != nil {
		change(tr)
	}
	provision(t, tr)
	return tr
}

func provision(t testing.TB, tr interface {
	caddy.Provisioner
	caddy.CleanerUpper
}) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := tr.Provision(ctx); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tr.Cleanup()
		cancel()
	})
}

// overTLS has a transport speak TLS, whatever the certificate.
func overTLS(tr *upstreampool.Transport) {
	tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true}
}

// overH2C has a transport speak HTTP/2 by prior knowledge.
func overH2C(tr *upstreampool.Transport) { tr.Versions = []string{"h2c", "2"} }

// newRequest returns a request as reverse_proxy would hand it to a transport.
func newRequest(t testing.TB, ctx context.Context, method, addr string, body io.Reader) *http.Request {
	t.Helper()
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	req, err := http.NewRequestWithContext(ctx, method, "http://h/", body)
	if err != nil {
		t.Fatal(err)
	}
	req.GetBody = nil // requests of a server have none
	req.URL.Scheme, req.URL.Host, req.Host = "", addr, "h.test"
	return req
}

// machine measures for how long nothing ran.
var machine = standstill.Begin()

// A result is what became of a request.
type result struct {
	status int
	body   string
	err    error
	took   time.Duration
	lost   time.Duration // of that nothing ran
}

// within tells whether it took no more than some time, as far as the machine let it.
func (r result) within(d time.Duration) bool { return r.took <= d+r.lost }

// send sends a request and reads its response.
func send(tr http.RoundTripper, req *http.Request) (r result) {
	start, lost := time.Now(), machine.Lost()
	defer func() { r.took, r.lost = time.Since(start), machine.Lost()-lost }()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return result{err: err}
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return result{status: resp.StatusCode, body: string(b), err: err}
}

func (r result) ok() bool { return r.err == nil && r.status == http.StatusOK }

func (r result) String() string {
	return fmt.Sprintf("status %d, body %.40q, error %v, after %s, in which nothing ran for %s",
		r.status, r.body, r.err, r.took.Round(time.Millisecond), r.lost.Round(time.Millisecond))
}

// mustSend sends a request that must succeed, within a time if that is not zero.
func mustSend(t testing.TB, tr http.RoundTripper, req *http.Request, within time.Duration) result {
	t.Helper()
	r := send(tr, req)
	if !r.ok() {
		t.Fatalf("%s: %v", req.Method, r)
	}
	if within > 0 && !r.within(within) {
		t.Fatalf("%s: %v, want within %s", req.Method, r, within)
	}
	return r
}

// together sends n requests at once, and returns the results in any order.
func together(t testing.TB, tr http.RoundTripper, n int, req func(i int) *http.Request) []result {
	t.Helper()
	results := make([]result, n)
	var wg sync.WaitGroup
	for i := range n {
		r := req(i)
		wg.Go(func() { results[i] = send(tr, r) })
	}
	wg.Wait()
	return results
}

// failures returns how many did not succeed, and one of them.
func failures(results []result) (n int, one result) {
	for _, r := range results {
		if !r.ok() {
			n, one = n+1, r
		}
	}
	return n, one
}

// listen returns a listener that ends with the test.
func listen(t testing.TB, admit func(n int64, c net.Conn) net.Conn) *fake.Listener {
	t.Helper()
	l, err := fake.Listen(admit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Stop)
	return l
}

func addr(l net.Listener) string { return l.Addr().String() }

// serve runs a Go server on l: HTTP/1 and h2c in clear, or HTTP/1 and HTTP/2 over
// TLS.
func serve(t testing.TB, l net.Listener, secure bool, handler http.HandlerFunc, change func(*http.Server)) {
	t.Helper()
	var server *http.Server
	var wg sync.WaitGroup
	err := fake.Serve(l, &wg, secure, handler, func(s *http.Server) {
		server = s
		if change != nil {
			change(s)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
}
