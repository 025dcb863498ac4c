package authority

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// manyOf are servers of which something is there n times over.
var manyOf = []struct {
	name   string
	server func(n int) string
}{
	{"sites and TLS policies", func(n int) string {
		return `"strict_sni_host":false,"tls_connection_policies":[` + times(n, ",", `{"match":{"sni":["s%d.w.test"]},"client_authentication":{"mode":"request"},"cipher_suites":["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}`) + `,{}],
			"routes":[` + times(n, ",", hostRoute("s%d.w.test", guardFor(`,"scope":"certificate"`))) + `]`
	}},
	{"sites of one policy", func(n int) string {
		return `"tls_connection_policies":[{}],"routes":[` + times(n, ",", hostRoute("s%d.w.test", guardFor(`,"scope":"site"`))) + `]`
	}},
	{"handle blocks by host", func(n int) string {
		return `"tls_connection_policies":[{}],"routes":[` + hostRoute("*.w.test", `{"handler":"subroute","routes":[`+
			times(n, ",", `{"group":"x","match":[{"host":["s%d.w.test"]}],"handle":[{"handler":"subroute","routes":[{"handle":[`+guardFor("")+`]}]}]}`)+`]}`) + `]`
	}},
	{"handle blocks by path", func(n int) string {
		return `"tls_connection_policies":[{}],"routes":[` + hostRoute("a.w.test b.w.test *.w.test", `{"handler":"subroute","routes":[`+
			times(n, ",", `{"group":"x","match":[{"path":["/p%d"]}],"handle":[`+guardFor("")+`]}`)+`]}`) + `]`
	}},
	{"groups of one route", func(n int) string {
		return `"tls_connection_policies":[{}],"routes":[` + hostRoute("a.w.test", `{"handler":"subroute","routes":[`+
			times(n, ",", `{"group":"g%d","match":[{"path":["/p"]}],"handle":[`+guardFor("")+`]}`)+`]}`) + `]`
	}},
	{"names of one site", func(n int) string {
		return `"tls_connection_policies":[{}],"routes":[{"match":[{"host":[` + times(n, ",", `"s%d.w.test"`) + `]}],"handle":[` + guardFor(`,"scope":"site"`) + `]}]`
	}},
	{"catch-alls", func(n int) string {
		return `"strict_sni_host":false,"tls_connection_policies":[{"match":{"sni":["a.test"]}},{"client_authentication":{"mode":"request"}}],"routes":[` +
			times(n, ",", `{"match":[{"path":["/p%d"]}],"handle":[`+guardFor("")+`]}`) + `]`
	}},
	{"uses of a named route", func(n int) string {
		return `"tls_connection_policies":[{}],"named_routes":{"n":{"handle":[` + guardFor("") + `]}},"routes":[` +
			times(n, ",", hostRoute("s%d.w.test", `{"handler":"invoke","name":"n"}`)) + `]`
	}},
}

// times repeats a text, with the number in the place of each %d.
func times(n int, sep, text string) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = strings.ReplaceAll(text, "%d", fmt.Sprint(i))
	}
	return strings.Join(parts, sep)
}

// readAnew measures what it takes to make the snapshot of a server and its
// warnings, the best of a few times.
func readAnew(app *App, server *Server) time.Duration {
	best := time.Hour
	for range 3 {
		began := time.Now()
		s := newSnapshot(server.http, server.Snapshot().policies, app.tls, server.guards)
		s.warnings()
		best = min(best, time.Since(began))
	}
	return best
}

func provisioned(t testing.TB, text string) (*App, *Server) {
	t.Helper()
	ctx := testcaddy.Provision(t, `{"http": {"servers": {"srv0": {`+testcaddy.NoRedirects+`, `+text+`}}}}`, "")
	app, err := ctx.App("connreuse")
	if err != nil {
		t.Fatal(err)
	}
	return app.(*App), app.(*App).servers[testcaddy.HTTPServer(t, ctx)]
}

// Eight times as many sites, policies, blocks or names cost about eight times as
// much, and not 64 times. A machine that is busy with other things may make one
// measurement wrong: so there are a few.
func TestReadingIsLinear(t *testing.T) {
	const few, times = 400, 8
	for _, test := range manyOf {
		t.Run(test.name, func(t *testing.T) {
			appFew, serverFew := provisioned(t, test.server(few))
			appMany, serverMany := provisioned(t, test.server(few*times))
			var ratio float64
			for range 5 {
				ratio = float64(readAnew(appMany, serverMany)) / float64(readAnew(appFew, serverFew))
				if ratio < 2.5*times {
					return
				}
			}
			t.Errorf("%d times as many cost %.0f times as much", times, ratio)
		})
	}
}

// BenchmarkReading is what the first use of a server's snapshot costs.
func BenchmarkReading(b *testing.B) {
	for _, test := range manyOf {
		for _, n := range []int{10, 100, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", test.name, n), func(b *testing.B) {
				app, server := provisioned(b, test.server(n))
				b.ReportAllocs()
				for b.Loop() {
					newSnapshot(server.http, server.Snapshot().policies, app.tls, server.guards).warnings()
				}
			})
		}
	}
}

// BenchmarkProvision is what it costs to load a whole config, Caddy's own part
// included.
func BenchmarkProvision(b *testing.B) {
	for _, test := range manyOf[:3] {
		for _, n := range []int{10, 10_000} {
			config := testcaddy.Config(b, `{"http": {"servers": {"srv0": {`+testcaddy.NoRedirects+`, `+test.server(n)+`}}}}`, "")
			raw := config.AppsRaw["http"]
			b.Run(fmt.Sprintf("%s/%d", test.name, n), func(b *testing.B) {
				for b.Loop() {
					config := *config
					config.AppsRaw = caddy.ModuleMap{"http": append([]byte(nil), raw...)}
					ctx, err := caddy.ProvisionContext(&config)
					if err != nil {
						b.Fatal(err)
					}
					app, err := ctx.App("connreuse")
					if err != nil {
						b.Fatal(err)
					}
					for _, server := range app.(*App).servers {
						server.Snapshot().warnings()
					}
				}
			})
		}
	}
}
