package upstreampool

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// stock returns transport http with room for as many idle connections as ours
// has by default.
func stock(b *testing.B, tls bool) http.RoundTripper {
	tr := &reverseproxy.HTTPTransport{KeepAlive: &reverseproxy.KeepAlive{MaxIdleConnsPerHost: 1024}}
	if tls {
		tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	if err := tr.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { tr.Cleanup(); cancel() })
	return tr
}

// BenchmarkGET sends GETs over connections that are there already.
func BenchmarkGET(b *testing.B) {
	for _, protocol := range []string{"h1", "h2"} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
		}))
		if protocol == "h2" {
			srv.EnableHTTP2 = true
			srv.StartTLS()
		} else {
			srv.Start()
		}
		b.Cleanup(srv.Close)
		addr := srv.Listener.Addr().String()
		for _, who := range []string{"stock", "upstreampool"} {
			var tr http.RoundTripper
			if who == "stock" {
				tr = stock(b, protocol == "h2")
			} else {
				tr = newTransport(b, func(tr *Transport) {
					if known(tr); protocol == "h2" {
						insecure(tr)
					}
				})
			}
			one := requestTo(b, context.Background(), "GET", "tcp", addr, nil)
			run := func(b *testing.B) {
				req := *one
				u := *one.URL
				req.URL = &u
				req.URL.Scheme = ""
				resp, err := tr.RoundTrip(&req)
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			run(b)
			b.Run(protocol+"/"+who+"/sequential", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					run(b)
				}
			})
			b.Run(protocol+"/"+who+"/128", func(b *testing.B) {
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

// BenchmarkLimit computes an idle limit, which every take-out does.
func BenchmarkLimit(b *testing.B) {
	b.ReportAllocs()
	c, l := newClock(), newLearner(defaults)
	for b.Loop() {
		l.limit(c.now, 0, false)
	}
}
