package upstreampool

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
	"github.com/caddy-connreuse/connreuse/internal/test/standstill"
)

// Requests whose distance is swept over the moment at which the upstream closes
// idle connections, on real sockets, without configuration: none fails. The
// control, transport http on the same path, must fail: it shows that the sweep
// meets that moment, for which a busy machine may need more than one try.
//
// Checklist: P14.
func TestBoundarySweep(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	const idle, rounds, tries = time.Second, 10, 5
	pools := 128
	if race.Enabled {
		pools = 32 // handshakes take a lot of time then
	}
	for _, protocol := range []string{"h1", "h2", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
			}))
			srv.Config.IdleTimeout = idle
			change := func(tr *reverseproxy.HTTPTransport) {}
			switch protocol {
			case "h1":
				srv.Start()
			case "h2":
				srv.EnableHTTP2 = true
				srv.StartTLS()
				change = func(tr *reverseproxy.HTTPTransport) {
					tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}
				}
			case "h2c":
				srv.Config.Protocols = new(http.Protocols)
				srv.Config.Protocols.SetUnencryptedHTTP2(true)
				srv.Start()
				change = func(tr *reverseproxy.HTTPTransport) { tr.Versions = []string{"h2c"} }
			}
			t.Cleanup(srv.Close)
			addr := srv.Listener.Addr().String()
			var last atomic.Value // error
			sweep := func(make func() http.RoundTripper) (failed, sent int64) {
				var wg sync.WaitGroup
				var bad, all atomic.Int64
				for i := range pools {
					wg.Go(func() {
						tr := make()
						time.Sleep(idle / 4 * time.Duration(i/32)) // not all handshakes at once
						for round := range rounds {
							_, _, err := send(tr, newRequest(t, "POST", addr, strings.NewReader("x")))
							all.Add(1)
							if err != nil {
								bad.Add(1)
								last.Store(err.Error())
							}
							// From 10 ms before to 10 ms after, finely spread.
							step := (i*rounds + round*37) % 200
							time.Sleep(idle - 10*time.Millisecond + time.Duration(step)*100*time.Microsecond)
						}
					})
				}
				wg.Wait()
				return bad.Load(), all.Load()
			}
			stock := func() http.RoundTripper {
				tr := new(reverseproxy.HTTPTransport)
				change(tr)
				ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
				if err := tr.Provision(ctx); err != nil {
					t.Error(err)
				}
				t.Cleanup(func() { tr.Cleanup(); cancel() })
				return tr
			}
			var control int64
			for try := 0; try < tries && control == 0; try++ {
				control, _ = sweep(stock)
			}
			var failed, sent int64
			for range tries {
				machine := standstill.Begin()
				failed, sent = sweep(func() http.RoundTripper {
					return newTransport(t, func(tr *Transport) { change(tr.HTTPTransport) })
				})
				stood := machine.End()
				// Where nothing runs for long, the server closes connections that
				// it had just accepted.
				if failed == 0 || stood < idle/4 {
					break
				}
				t.Logf("%d requests failed, the last one with: %v; but everything stood still for %v", failed, last.Load(), stood)
			}
			t.Logf("of %d requests each, transport http failed %d, upstreampool %d", sent, control, failed)
			if failed != 0 {
				t.Errorf("%d of %d requests failed, the last one with: %v", failed, sent, last.Load())
			}
			if control == 0 {
				t.Errorf("the control did not fail in %d tries: the sweep shows nothing", tries)
			}
		})
	}
}
