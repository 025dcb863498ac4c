package authority

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

func init() {
	caddy.RegisterModule(testGuard{})
	caddy.RegisterModule(testContainer{})
	caddy.RegisterModule(testCloset{})
}

// testGuard is a guard as misdirected is one.
type testGuard struct {
	Name string `json:"name,omitempty"`
	// ErrorRoutes as in Guard.
	ErrorRoutes bool `json:"error_routes,omitempty"`
	// AcceptsMissingSNI as in Guard.
	AcceptsMissingSNI bool       `json:"accepts_missing_sni,omitempty"`
	Share             [][]string `json:"share,omitempty"`
	Scope             Scope      `json:"scope,omitempty"`
	// ReportOnly as in Guard.
	ReportOnly bool `json:"report_only,omitempty"`
	guard      *Guard
}

func (testGuard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_guard", New: func() caddy.Module { return new(testGuard) }}
}

func (g *testGuard) Provision(ctx caddy.Context) error {
	server, err := ForServer(ctx)
	if err != nil {
		return err
	}
	g.guard = &Guard{
		Accepts: func(s *Snapshot, sni, host string) bool {
			together := func(group []string) bool { return slices.Contains(group, sni) && slices.Contains(group, host) }
			switch {
			case sni == host || slices.ContainsFunc(g.Share, together):
				return true
			case g.Scope == ScopeSite:
				return s.SameSite(sni, host) && s.SamePolicy(sni, host)
			case g.Scope == ScopeCertificate:
				return s.CertificateCovers(sni, host) && s.SamePolicy(sni, host)
			}
			return false
		},
		Scope:             g.Scope,
		ReportOnly:        g.ReportOnly,
		ErrorRoutes:       g.ErrorRoutes,
		AcceptsMissingSNI: g.AcceptsMissingSNI,
		Share:             g.Share,
	}
	guardNames[g.guard] = g.Name
	server.AddGuard(g.guard)
	return nil
}

var guardNames = make(map[*Guard]string)

func (g *testGuard) Guard() *Guard { return g.guard }

func (g *testGuard) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	w.Header().Add("Ran", g.Name)
	return next.ServeHTTP(w, r)
}

// testContainer is a handler of another author that has routes.
type testContainer struct {
	Routes caddyhttp.RouteList `json:"routes,omitempty"`
}

func (testContainer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_container", New: func() caddy.Module { return new(testContainer) }}
}

func (c *testContainer) Provision(ctx caddy.Context) error { return c.Routes.Provision(ctx) }

func (c *testContainer) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return c.Routes.Compile(next).ServeHTTP(w, r)
}

// testCloset has routes that nobody sees from outside.
type testCloset struct {
	Hidden json.RawMessage `json:"routes,omitempty"`
	routes caddyhttp.RouteList
}

func (testCloset) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_closet", New: func() caddy.Module { return new(testCloset) }}
}

func (c *testCloset) Provision(ctx caddy.Context) error {
	if err := json.Unmarshal(c.Hidden, &c.routes); err != nil {
		return err
	}
	return c.routes.Provision(ctx)
}

func (c *testCloset) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return c.routes.Compile(next).ServeHTTP(w, r)
}

// server provisions an http app with one server and returns what it knows.
func server(t *testing.T, text string) (*caddyhttp.Server, *Snapshot) {
	t.Helper()
	ctx := testcaddy.Provision(t, `{"http": {"servers": {"srv0": {`+testcaddy.NoRedirects+`, `+text+`}}}}`, "")
	srv := testcaddy.HTTPServer(t, ctx)
	app, err := ctx.App("connreuse")
	if err != nil {
		t.Fatal(err)
	}
	entry, ok := app.(*App).servers[srv]
	if !ok {
		t.Fatal("the test config has no guard, so there is no snapshot")
	}
	return srv, entry.Snapshot()
}

const oneGuard = `{"handle": [{"handler": "test_guard"}]}`

func TestSites(t *testing.T) {
	type want struct{ host, site string }
	for _, test := range []struct {
		name    string
		routes  string
		sites   []want
		same    [][2]string
		differ  [][2]string
		unnamed []string
	}{
		{
			name: "as the Caddyfile sorts them",
			routes: `{"match":[{"host":["a.test","b.test"]}],"terminal":true},
				{"match":[{"host":["*.test"]}],"terminal":true},
				{"terminal":true}`,
			sites:  []want{{"a.test", "a.test, b.test"}, {"c.test", "*.test"}, {"x.c.test", "catch-all (route 2)"}, {"", "catch-all (route 2)"}},
			same:   [][2]string{{"a.test", "b.test"}, {"c.test", "d.test"}, {"x.y", "y"}, {"y", ""}},
			differ: [][2]string{{"a.test", "c.test"}, {"c.test", "x.y"}},
		},
		{
			name: "a catch-all in front takes everything",
			routes: `{"terminal":true},
				{"match":[{"host":["a.test"]}],"terminal":true}`,
			sites: []want{{"a.test", "catch-all (route 0)"}},
			same:  [][2]string{{"a.test", "b.test"}},
		},
		{
			name: "one that goes on does not",
			routes: `{"handle":[{"handler":"headers"}]},
				{"match":[{"host":["a.test"]}],"terminal":true},
				{"match":[{"host":["b.test"]}],"terminal":true}`,
			sites:  []want{{"a.test", "a.test"}, {"b.test", "b.test"}, {"c.test", "catch-all (route 0)"}},
			differ: [][2]string{{"a.test", "b.test"}, {"a.test", "c.test"}},
			same:   [][2]string{{"c.test", "d.test"}},
		},
		{
			name: "routes in a row must all be the same",
			routes: `{"match":[{"host":["a.test","b.test","c.test"]}]},
				{"match":[{"host":["a.test"]}]},
				{"match":[{"host":["b.test","c.test"]}]}`,
			differ: [][2]string{{"a.test", "b.test"}},
			same:   [][2]string{{"b.test", "c.test"}},
		},
		{
			name: "another matcher may let the request through to the next route",
			routes: `{"match":[{"host":["a.test","b.test"],"path":["/x"]}],"terminal":true},
				{"match":[{"host":["a.test"]}],"terminal":true}`,
			sites:  []want{{"a.test", "a.test, b.test"}},
			differ: [][2]string{{"a.test", "b.test"}},
		},
		{
			name: "matcher sets are alternatives",
			routes: `{"match":[{"host":["a.test"]},{"path":["/x"]}],"terminal":true},
				{"match":[{"host":["b.test"]}],"terminal":true}`,
			differ: [][2]string{{"a.test", "b.test"}, {"b.test", "c.test"}},
			same:   [][2]string{{"c.test", "d.test"}},
		},
		{
			name: "a route is skipped where another of its group runs",
			routes: `{"group":"x","match":[{"path":["/"]}]},
				{"group":"x","match":[{"host":["a.test","b.test"]}],"terminal":true},
				{"match":[{"host":["b.test"]}],"terminal":true}`,
			differ: [][2]string{{"a.test", "b.test"}},
		},
		{
			name:    "a site for hosts that is one for all under other conditions",
			routes:  `{"match":[{"host":["a.test"]},{"path":["/x"]}]},{"match":[{"host":["a.test","b.test"]}]}`,
			sites:   []want{{"a.test", "a.test, and others"}, {"b.test", "a.test, b.test"}, {"c.test", "a.test, and others"}},
			unnamed: []string{"c.test"},
		},
		{
			name: "what TLS requests cannot reach is no site",
			routes: `{"match":[{"protocol":"http","host":["a.test"]}],"terminal":true},
				{"match":[{"protocol":"http"}],"terminal":true},
				{"match":[{"host":[]}],"terminal":true},
				{"match":[{"protocol":"https","host":["a.test"]}],"terminal":true}`,
			sites:  []want{{"a.test", "a.test"}, {"b.test", "none"}},
			differ: [][2]string{{"a.test", "b.test"}},
		},
		{
			name: "placeholders: known ones are filled in, others make the site unknown",
			routes: `{"match":[{"host":["{env.CONNREUSE_TEST_NAME}.test"]}],"terminal":true},
				{"match":[{"host":["{http.request.header.x}"]}],"terminal":true},
				{"match":[{"host":["b.test","c.test"]}],"terminal":true}`,
			sites:  []want{{"secret.test", "secret.test"}, {"b.test", "route 1, whose hosts depend on the request"}},
			differ: [][2]string{{"b.test", "c.test"}, {"x.test", "y.test"}},
		},
		{
			name:   "no host matcher at all",
			routes: `{"match":[{"path":["/x"]}]},{}`,
			sites:  []want{{"a.test", "catch-all (route 0)"}},
			same:   [][2]string{{"a.test", "b.test"}, {"a.test", ""}},
		},
		{
			name:   "capitals, wildcards at any place, U-labels",
			routes: `{"match":[{"host":["A.TEST","x.*.test","f*.test","bücher.test"]}],"terminal":true},{"terminal":true}`,
			same:   [][2]string{{"a.test", "x.q.test"}, {"a.test", "xn--bcher-kva.test"}},
			differ: [][2]string{{"a.test", "fx.test"}, {"x.q.test", "y.q.test"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("CONNREUSE_TEST_NAME", "secret")
			// the guard stands behind, so that the routes have their indexes
			_, snap := server(t, `"tls_connection_policies":[{}], "routes": [`+test.routes+`, {"match":[{"protocol":"http"}],"handle":[{"handler":"test_guard"}]}]`)
			for _, w := range test.sites {
				if got := snap.Site(w.host); got != w.site {
					t.Errorf("site of %q is %q, want %q", w.host, got, w.site)
				}
			}
			for _, host := range test.unnamed {
				if site := snap.routes.of(host); site != nil && site.names(host) {
					t.Errorf("a site names %q", host)
				}
			}
			for _, p := range test.same {
				if !snap.SameSite(p[0], p[1]) || !snap.SameSite(p[1], p[0]) {
					t.Errorf("%q and %q have different sites, want the same", p[0], p[1])
				}
			}
			for _, p := range test.differ {
				if snap.SameSite(p[0], p[1]) || snap.SameSite(p[1], p[0]) {
					t.Errorf("%q and %q have the same site, want different ones", p[0], p[1])
				}
			}
		})
	}
}

// Names with one site may part below it.
func TestSameRoutes(t *testing.T) {
	inner := `{"handler":"subroute","routes":[{"match":[{"host":["a.test","b.test"]}]},{"match":[{"path":["/x"]}]}]}`
	for _, test := range []struct {
		name, server string
		same, differ [][2]string
	}{
		{"nothing below", `"routes":[` + oneGuard + `]`, [][2]string{{"a.test", "a.test."}, {"a.test", ""}}, nil},
		{"a subroute", `"routes":[` + oneGuard + `,{"handle":[` + inner + `]}]`,
			[][2]string{{"a.test", "b.test"}, {"c.test", "c.test."}}, [][2]string{{"a.test", "a.test."}, {"a.test", ""}}},
		{"a named route", `"named_routes":{"n":{"handle":[` + inner + `]}},"routes":[` + oneGuard + `,{"handle":[{"handler":"invoke","name":"n"}]}]`,
			[][2]string{{"a.test", "b.test"}}, [][2]string{{"a.test", "a.test."}}},
		{"error routes", `"routes":[` + oneGuard + `],"errors":{"routes":[{"match":[{"host":["a.test"]}]}]}`,
			[][2]string{{"b.test", "c.test"}}, [][2]string{{"a.test", "a.test."}}},
		{"a host that depends on the request", `"routes":[` + oneGuard + `,{"handle":[{"handler":"subroute","routes":[{"match":[{"host":["{http.request.header.x}"]}]}]}]}]`,
			nil, [][2]string{{"a.test", "a.test."}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, snap := server(t, `"tls_connection_policies":[{}], `+test.server)
			for _, p := range test.same {
				if !snap.SameRoutes(p[0], p[1]) {
					t.Errorf("%q and %q have different routes, want the same", p[0], p[1])
				}
			}
			for _, p := range test.differ {
				if snap.SameRoutes(p[0], p[1]) {
					t.Errorf("%q and %q have the same routes, want different ones", p[0], p[1])
				}
			}
		})
	}
}

// compareWithCaddy compares, for each host, the route that we think it has with
// the one that Caddy runs: bodies holds what each route answers.
func compareWithCaddy(t *testing.T, srv *caddyhttp.Server, snap *Snapshot, bodies []string, config string) {
	t.Helper()
	answers := make(map[string]string)
	hosts := []string{"a.test", "b.test", "c.test", "b.x.test", "c.x.test", "a.y.test", "c.y.test", "a.b.c.test", "localhost", "other", "127.0.0.1", "127.0.0.2", "::1", "xn--bcher-kva.test"}
	for _, host := range hosts {
		asked := host
		if strings.Contains(host, ":") {
			asked = "[" + host + "]"
		}
		body := testcaddy.Get(srv, "", asked).Body.String()
		want := ""
		var c cursor
		snap.routes.byHost.find(&c, host)
		if r, ok := c.next(); ok && int(r.index) < len(bodies) {
			want = bodies[r.index]
		}
		if body != want {
			t.Fatalf("Caddy answers %q for %q, the route we take it for %q, in %s", body, host, want, config)
		}
		answers[host] = body
	}
	for _, a := range hosts {
		for _, b := range hosts {
			if want := answers[a] == answers[b]; snap.SameSite(a, b) != want {
				t.Fatalf("same site of %q and %q is not %t, in %s", a, b, want, config)
			}
		}
	}
}

// TestSitesAsCaddyRoutes compares sites with Caddy's own routing over random
// lists of routes, in any order.
func TestSitesAsCaddyRoutes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	patterns := []string{"a.test", "b.test", "B.x.test", "*.test", "*.x.test", "a.*.test", "*.*.test", "*", "localhost", "127.0.0.1", "::1", "bücher.test"}
	for range 150 {
		var texts, bodies []string
		for i := range 1 + rnd.IntN(8) {
			match := ""
			if rnd.IntN(5) > 0 {
				var sets []string
				for range 1 + rnd.IntN(2) {
					var some []string
					for _, j := range rnd.Perm(len(patterns))[:1+rnd.IntN(3)] {
						some = append(some, `"`+patterns[j]+`"`)
					}
					sets = append(sets, `{"host":[`+strings.Join(some, ",")+`]}`)
				}
				match = `"match":[` + strings.Join(sets, ",") + `],`
			}
			bodies = append(bodies, fmt.Sprint(i))
			texts = append(texts, fmt.Sprintf(`{%s"terminal":true,"handle":[{"handler":"static_response","body":"%d"}]}`, match, i))
		}
		routes := strings.Join(texts, ",")
		srv, snap := server(t, `"tls_connection_policies":[{}], "routes": [`+routes+`,`+oneGuard+`]`)
		compareWithCaddy(t, srv, snap, bodies, routes)
	}
}

// TestSitesOfTheCaddyfile does so over random Caddyfiles, catch-all and wildcard
// sites in any order, which the adapter then sorts.
func TestSitesOfTheCaddyfile(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 150 {
		addresses := []string{"a.test", "https://b.test", "*.test", "b.x.test:8443", "*.x.test", "*.*.test", "localhost", "127.0.0.1", "[::1]", "bücher.test", "*"}
		if rnd.IntN(2) == 0 {
			addresses = append(addresses, []string{"https://", ":8443"}[rnd.IntN(2)])
		}
		rnd.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
		text := "{\n\thttps_port 8443\n\tlocal_certs\n}\n"
		for i := 0; i < len(addresses)-rnd.IntN(3); {
			n := min(1+rnd.IntN(3), len(addresses)-i)
			text += fmt.Sprintf("%s {\n\trespond \"%d\"\n}\n", strings.Join(addresses[i:i+n], ", "), i)
			i += n
		}
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		var cfg struct {
			Apps struct {
				HTTP struct {
					Servers map[string]map[string]json.RawMessage `json:"servers"`
				} `json:"http"`
			} `json:"apps"`
		}
		var routes []json.RawMessage
		if err := json.Unmarshal(adapted, &cfg); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(cfg.Apps.HTTP.Servers["srv0"]["routes"], &routes); err != nil {
			t.Fatal(err)
		}
		var bodies, list []string
		for _, route := range routes {
			bodies = append(bodies, regexp.MustCompile(`"body":"(\d+)"`).FindStringSubmatch(string(route))[1])
			list = append(list, string(route))
		}
		srv, snap := server(t, `"tls_connection_policies":[{}], "routes": [`+strings.Join(list, ",")+`,`+oneGuard+`]`)
		compareWithCaddy(t, srv, snap, bodies, text)
	}
}

func TestGuards(t *testing.T) {
	guard := func(name string) string { return `{"handler":"test_guard","name":"` + name + `"}` }
	// What the Caddyfile's handle blocks become.
	blocks := `{"handler":"subroute","routes":[
		{"group":"x","match":[{"host":["a.test"]}],"handle":[` + guard("g") + `,{"handler":"static_response"}]},
		{"group":"x","handle":[` + guard("h") + `,{"handler":"static_response"}]}]}`
	for _, test := range []struct {
		name   string
		server string // routes and more
		host   string
		want   string // guards that can run; "!" behind those that always do
	}{
		{"in its site", `"routes":[{"match":[{"host":["a.test"]}],"handle":[` + guard("g") + `]}]`, "a.test", "g!"},
		{"in another site", `"routes":[{"match":[{"host":["a.test"]}],"handle":[` + guard("g") + `]}]`, "b.test", ""},
		{"for everyone", `"routes":[{"handle":[` + guard("g") + `]}]`, "b.test", "g!"},
		{"for everyone, by path", `"routes":[{"match":[{"path":["/x"]}],"handle":[` + guard("g") + `]}]`, "b.test", "g"},
		{"in a subroute", `"routes":[{"match":[{"host":["*.test"]}],"handle":[{"handler":"subroute","routes":[{"handle":[` + guard("g") + `]}]}]}]`, "a.test", "g!"},
		{"in a subroute for a host", `"routes":[{"match":[{"host":["*.test"]}],"handle":[{"handler":"subroute","routes":[{"match":[{"host":["a.test"]}],"handle":[` + guard("g") + `]}]}]}]`, "a.test", "g!"},
		{"in a subroute for another host", `"routes":[{"match":[{"host":["*.test"]}],"handle":[{"handler":"subroute","routes":[{"match":[{"host":["b.test"]}],"handle":[` + guard("g") + `]}]}]}]`, "a.test", ""},
		{"in a subroute for the host and a path", `"routes":[{"match":[{"host":["*.test"]}],"handle":[{"handler":"subroute","routes":[{"match":[{"host":["a.test"],"path":["/x"]}],"handle":[` + guard("g") + `]}]}]}]`, "a.test", "g"},
		{"in a group", `"routes":[{"group":"x","handle":[` + guard("g") + `]}]`, "a.test", "g!"},
		{"behind another of its group", `"routes":[{"group":"x","match":[{"host":["a.test"]}]},{"group":"x","handle":[` + guard("g") + `]}]`, "a.test", ""},
		{"behind another of its group, for another host", `"routes":[{"group":"x","match":[{"host":["b.test"]}]},{"group":"x","handle":[` + guard("g") + `]}]`, "a.test", "g!"},
		{"behind another of its group, by path", `"routes":[{"group":"x","match":[{"path":["/x"]}]},{"group":"x","handle":[` + guard("g") + `]}]`, "a.test", "g"},
		{"behind another group of the same name", `"routes":[{"handle":[{"handler":"subroute","routes":[{"group":"x"}]}]},{"group":"x","handle":[` + guard("g") + `]}]`, "a.test", "g"},
		{"in error routes", `"routes":[` + oneGuard + `],"errors":{"routes":[{"match":[{"host":["a.test"]}],"handle":[` + guard("g") + `]}]}`, "a.test", "!,g"},
		{"in error routes of a subroute", `"routes":[{"match":[{"host":["a.test"]}],"handle":[{"handler":"subroute","routes":[{"handle":[` + guard("g") + `]}],"errors":{"routes":[{"handle":[` + guard("e") + `]}]}}]}]`, "a.test", "g!,e"},
		{"in a named route", `"named_routes":{"n":{"handle":[` + guard("g") + `]}},"routes":[{"match":[{"host":["a.test"]}],"handle":[{"handler":"invoke","name":"n"}]}]`, "a.test", "g!"},
		{"in a named route of another host", `"named_routes":{"n":{"handle":[` + guard("g") + `]}},"routes":[{"match":[{"host":["b.test"]}],"handle":[{"handler":"invoke","name":"n"}]}]`, "a.test", ""},
		{"in a named route that calls itself", `"named_routes":{"n":{"handle":[` + guard("g") + `,{"handler":"invoke","name":"n"}]}},"routes":[{"handle":[{"handler":"invoke","name":"n"}]}]`, "a.test", "g!"},
		{"in a handler that hides its routes", `"routes":[{"match":[{"host":["b.test"]}],"handle":[{"handler":"test_closet","routes":[{"handle":[` + guard("g") + `]}]}]}]`, "a.test", "g"},
		{"in a handler with routes of its own", `"routes":[{"match":[{"host":["b.test"]}],"handle":[{"handler":"test_container","routes":[{"handle":[` + guard("g") + `]}]}]}]`, "a.test", ""},
		{"in a handler with routes of its own, for its host", `"routes":[{"match":[{"host":["a.test"]}],"handle":[{"handler":"test_container","routes":[{"handle":[` + guard("g") + `]}]}]}]`, "a.test", "g"},
		{"in routes for a response", `"routes":[{"match":[{"host":["a.test"]}],"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:1"}],"handle_response":[{"routes":[{"handle":[` + guard("g") + `]}]}]}]}]`, "a.test", "g"},
		{"where a group has been taken by a nested list of this name", `"routes":[{"handle":[{"handler":"subroute","routes":[{"group":"x","match":[{"path":["/x"]}],"handle":[` + guard("g") + `]},{"group":"x","handle":[` + guard("h") + `]}]}]}]`, "a.test", "g,h"},
		{"where only plain HTTP gets", `"routes":[{"match":[{"protocol":"http"}],"handle":[` + guard("g") + `]},` + oneGuard + `]`, "a.test", "!"},
		{"where only plain HTTP gets, below the top level", `"routes":[{"handle":[{"handler":"subroute","routes":[{"match":[{"protocol":"http"}],"handle":[` + guard("g") + `]}]}]},` + oneGuard + `]`, "a.test", "!"},
		{"in a site behind the one that answers", `"routes":[{"match":[{"host":["a.test"]}],"terminal":true},{"match":[{"host":["*.test"]}],"handle":[` + guard("g") + `]}]`, "a.test", ""},
		{"in a site behind one that may answer", `"routes":[{"match":[{"host":["a.test"],"path":["/x"]}],"terminal":true},{"match":[{"host":["*.test"]}],"handle":[` + guard("g") + `]}]`, "a.test", "g"},
		{"in one of two handle blocks", `"routes":[{"handle":[` + blocks + `]}]`, "a.test", "g!"},
		{"in the other of two handle blocks", `"routes":[{"handle":[` + blocks + `]}]`, "b.test", "h!"},
		{"two of them", `"routes":[{"match":[{"host":["a.test"]}],"handle":[` + guard("g") + `]},{"match":[{"not":[{"path":["/x"]}]}],"handle":[` + guard("h") + `]}]`, "a.test", "g!,h"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, snap := server(t, `"tls_connection_policies":[{}], `+test.server)
			var got []string
			snap.guards.each(test.host, func(g *Guard, certain bool) bool {
				name := guardNames[g]
				if certain {
					name += "!"
				}
				got = append(got, name)
				return true
			})
			if strings.Join(got, ",") != test.want {
				t.Errorf("guards of %s: %v, want %s", test.host, got, test.want)
			}
		})
	}
}

func TestForServerOutsideOfOne(t *testing.T) {
	ctx := testcaddy.Provision(t, `{}`, "")
	if _, err := ForServer(ctx); err == nil || !strings.Contains(err.Error(), "only within a server") {
		t.Errorf("error = %v, want one that says where it belongs", err)
	}
}
