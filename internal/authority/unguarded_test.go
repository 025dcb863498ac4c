package authority

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// openServer provisions a server without any connreuse module.
func openServer(t *testing.T, policies, routes string) *caddyhttp.Server {
	t.Helper()
	return testcaddy.HTTPServer(t, testcaddy.Provision(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,
		"strict_sni_host":false,"tls_connection_policies":[`+policies+`],"routes":[`+routes+`]}}}}`, ""))
}

// What is read of provisioned policies is what they select. This fails if Caddy
// keeps their matchers elsewhere one day.
func TestProvisionedPoliciesAreRead(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 3))
	patterns := []string{"a.test", "B.test", "*.test", "*.x.test", "*.*.test", "a.*.test", "a.x.test", "bücher.test", ""}
	for range 100 {
		var policies []string
		// With more than 30, Caddy looks in an index first that knows no wildcards.
		for range 1 + rnd.IntN(30) {
			text := ""
			if rnd.IntN(8) > 0 {
				text = `"match":{"sni":["` + patterns[rnd.IntN(len(patterns))] + `","` + patterns[rnd.IntN(len(patterns))] + `"]},`
			}
			policies = append(policies, `{`+text+fmt.Sprintf(`"drop":%t`, rnd.IntN(9) == 0)+[]string{"", `,"client_authentication":{"mode":"request"}`}[rnd.IntN(2)]+`}`)
		}
		srv := openServer(t, strings.Join(policies, ","), `{}`)
		read, ok := readProvisioned(srv.TLSConnPolicies)
		if !ok {
			t.Fatal("the matchers of provisioned policies are not where they were")
		}
		asking := askProvisioned(srv.TLSConnPolicies)
		for _, name := range []string{"a.test", "b.test", "c.test", "a.x.test", "b.x.test", "a.y.test", "xn--bcher-kva.test", "other", "*.test", "*.*.*"} {
			asked, open := read(name)
			wantAsked, wantOpen := asking(name)
			if asked != wantAsked || open != wantOpen {
				t.Fatalf("%q: asked %t, open %t; the policies say %t and %t: %s", name, asked, open, wantAsked, wantOpen, policies)
			}
		}
	}
}

// A server without connreuse modules costs in proportion to its size, too.
func TestUnguardedNamesAreLinear(t *testing.T) {
	const n, times = 200, 16
	names := func(n int) func() {
		var policies, routes []string
		for i := range n {
			policies = append(policies, fmt.Sprintf(`{"match":{"sni":["s%d.w.test"]},"client_authentication":{"mode":"request"}}`, i))
			routes = append(routes, hostRoute(fmt.Sprintf("o%d.w.test", i)), fmt.Sprintf(`{"match":[{"path":["/%d"]}]}`, i))
		}
		srv := openServer(t, strings.Join(append(policies, `{}`), ","), strings.Join(routes, ","))
		return func() { unguardedNames(srv) }
	}
	linear(t, times, names(n), names(n*times))
}
