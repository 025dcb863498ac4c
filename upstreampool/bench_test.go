package upstreampool

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// stock returns transport http with room for as many idle connections as ours
// has by default.
func stock(t testing.TB, tls bool) http.RoundTripper {
	tr := &reverseproxy.HTTPTransport{KeepAlive: &reverseproxy.KeepAlive{MaxIdleConnsPerHost: 1024}}
	if tls {
		tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}
	}
	provisionStock(t, tr)
	return tr
}

func provisionStock(t testing.TB, tr *reverseproxy.HTTPTransport) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := tr.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Cleanup(); cancel() })
}

// transports returns stock's transport and ours.
func transports(t testing.TB, protocol string) (theirs, ours http.RoundTripper) {
	return stock(t, protocol == "h2"), newTransport(t, func(tr *Transport) {
		if known(tr); protocol == "h2" {
			insecure(tr)
		}
	})
}

// getter starts an upstream, and returns what sends it a GET as reverse_proxy would.
func getter(t testing.TB, protocol string) func(tr http.RoundTripper) error {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello")
	}))
	if protocol == "h2" {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	one := requestTo(t, context.Background(), "GET", "tcp", srv.Listener.Addr().String(), nil)
	return func(tr http.RoundTripper) error {
		repl := caddy.NewReplacer()
		repl.Map(func(string) (any, bool) { return nil, false }) // as Caddy's HTTP server does
		req := *one.WithContext(context.WithValue(one.Context(), caddy.ReplacerCtxKey, repl))
		u := *one.URL
		req.URL = &u
		req.URL.Scheme = ""
		resp, err := tr.RoundTrip(&req)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

// BenchmarkGET sends GETs over connections that are there already.
func BenchmarkGET(b *testing.B) {
	for _, protocol := range []string{"h1", "h2"} {
		get := getter(b, protocol)
		theirs, ours := transports(b, protocol)
		for _, side := range []struct {
			name string
			tr   http.RoundTripper
		}{{"stock", theirs}, {"upstreampool", ours}} {
			run := func(b *testing.B) {
				if err := get(side.tr); err != nil {
					b.Error(err)
				}
			}
			run(b)
			b.Run(protocol+"/"+side.name+"/sequential", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					run(b)
				}
			})
			b.Run(protocol+"/"+side.name+"/128", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(64)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						run(b)
					}
				})
			})
		}
	}
}

// BenchmarkCredentials looks at credentials as long as tokens are.
func BenchmarkCredentials(b *testing.B) {
	h := http.Header{"Authorization": {"Bearer " + strings.Repeat("token", 300)}}
	b.ReportAllocs()
	for b.Loop() {
		if authenticates(h) {
			b.Fatal("of the connection")
		}
	}
}
