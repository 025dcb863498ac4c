package authority

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/cputime"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
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

// readAnew makes the snapshot of a server and its warnings.
func readAnew(app *App, server *Server) {
	newSnapshot(server.http, server.Snapshot().policies, app.tls, server.guards).warnings()
}

// linear fails the test if many, which is about times as many things, takes much
// more CPU time than few does that many times. The clock may be a coarse one, so
// both run until there is something to compare.
func linear(t *testing.T, times int, few, many func()) {
	t.Helper()
	var tookFew, tookMany time.Duration
	for range 100 {
		tookFew += cputime.Of(t, func() {
			for range times {
				few()
			}
		})
		tookMany += cputime.Of(t, many)
		if tookFew+tookMany > 120*time.Millisecond {
			break
		}
	}
	if tookMany > 4*tookFew {
		t.Errorf("%d times as many take %v, and the few as many times %v", times, tookMany, tookFew)
	}
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

// Sixteen times as many sites, policies, blocks or names cost about sixteen times
// as much, and not 256 times.
func TestReadingIsLinear(t *testing.T) {
	const times = 16
	n := race.Fewer(200)
	for _, test := range manyOf {
		t.Run(test.name, func(t *testing.T) {
			appFew, few := provisioned(t, test.server(n))
			appMany, many := provisioned(t, test.server(n*times))
			linear(t, times, func() { readAnew(appFew, few) }, func() { readAnew(appMany, many) })
		})
	}
}

// Ways through named routes are many more than the routes where each invokes the next one
// twice. To read them takes no longer for that.
func TestReadingFollowsNoWayTwice(t *testing.T) {
	text := func(depth int) string {
		var named strings.Builder
		for i := range depth {
			next := fmt.Sprintf(`{"handle":[{"handler":"invoke","name":"n%d"}]}`, i+1)
			fmt.Fprintf(&named, `"n%d":{"handle":[{"handler":"subroute","routes":[%s,%s]}]},`, i, next, next)
		}
		policies := `"strict_sni_host":false,"tls_connection_policies":[{"match":{"sni":["a.w.test"]},"client_authentication":{"mode":"request"}},{}]`
		return policies + `,"named_routes":{` + named.String() +
			fmt.Sprintf(`"n%d":{"match":[{"host":["a.w.test"],"path":["/x"]}],"handle":[{"handler":"intercept"},%s]}`, depth, guardFor("")) + `},
			"routes":[` + hostRoute("a.w.test", `{"handler":"invoke","name":"n0"}`) + `,` + hostRoute("b.w.test", guardFor("")) + `]`
	}
	look := func(depth int) func() {
		app, server := provisioned(t, text(depth))
		return func() {
			readAnew(app, server)
			server.Snapshot().guards.same("a.w.test", "c.w.test")
			server.Snapshot().HandlerRuns("a.w.test", "http.handlers.acme_server")
		}
	}
	linear(t, 2, look(50), look(100))
}

// BenchmarkReading is what the first use of a server's snapshot costs.
func BenchmarkReading(b *testing.B) {
	for _, test := range manyOf {
		for _, n := range []int{10, 100, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", test.name, n), func(b *testing.B) {
				app, server := provisioned(b, test.server(n))
				b.ReportAllocs()
				for b.Loop() {
					readAnew(app, server)
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

// Under one wildcard certificate with thousands of TLS policies, a connection
// finds the set that an earlier one with its SNI has made.
func TestOriginSetsOfManyPolicies(t *testing.T) {
	const n = 3000
	_, server := provisioned(t, `"tls_connection_policies":[`+times(n, ",", `{"match":{"sni":["s%d.w.test"]},"alpn":["p%d"]}`)+`,{}],
		"routes":[`+times(n, ",", hostRoute("s%d.w.test", guardFor(`,"scope":"certificate"`)))+`]`)
	fakeCertificates{{"*.w.test"}}.install(server.Snapshot())
	sets := NewOriginSets(server, BySpelling, nil, 32)
	made := make(map[*OriginSet]bool)
	for round := range 3 {
		before := len(made)
		for i := range n {
			sni := fmt.Sprintf("s%d.w.test", i)
			made[sets.Find(sni)] = true
			server.Snapshot().Refuses(sni)
		}
		// Of 100 one may have found its bucket full.
		if again := len(made) - before; round > 0 && again > n/50 {
			t.Errorf("%d of %d sets were made anew", again, n)
		}
	}
}
