package origin

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// What random configurations are made of.
var (
	generatedNames = []string{"a.p2.test", "b.p2.test", "c.p2.test", "x.w.p2.test", "y.w.p2.test", "n.p2.test", "v.u.p2.test", "192.0.2.7"}
	// issued are the names of the certificates.
	issued = [][]string{
		{"a.p2.test", "b.p2.test", "x.w.p2.test", "192.0.2.7"},
		{"b.p2.test", "c.p2.test"},
		{"*.w.p2.test", "c.p2.test", "n.p2.test"},
		{"*.p2.test"},
		{"v.u.p2.test", "a.p2.test", "other.p2.test"},
	}
	// universe are all exact names, in alphabetical order.
	universe = exactNames(slices.Concat(append([][]string{generatedNames}, issued...)...))
)

func exactNames(names []string) []string {
	names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, "*") })
	slices.Sort(names)
	return slices.Compact(names)
}

// presentedFor returns the names of each certificate that may be presented for an SNI:
// those with the name itself, else those with a wildcard for it.
func presentedFor(sni string) (list [][]string) {
	for _, name := range []string{sni, "*." + hostname.Parent(sni)} {
		for _, certificate := range issued {
			if slices.Contains(certificate, name) {
				list = append(list, certificate)
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	return nil
}

func coveredBy(certificate []string, host string) bool {
	return slices.Contains(certificate, host) || slices.Contains(certificate, "*."+hostname.Parent(host))
}

// A generator makes random configurations. Its guards and policies are its own, since
// it needs two share groups and policies for some clients only.
type generator struct{ *testcaddy.Random }

func newGenerator() *generator {
	return &generator{testcaddy.NewRandom(7, generatedNames, []string{"*.p2.test", "*.w.p2.test", "*.*.p2.test"})}
}

// A generated is one of them.
type generated struct {
	json string
	// open are the exact names that stand in a host matcher for everybody, in which
	// requests for them arrive.
	open   map[string]bool
	listed []string
	most   int
}

// patterns returns some host patterns.
func (g *generator) patterns() []string { return g.Few(g.Patterns, 3) }

func (g *generator) guard() string {
	share := ""
	if g.IntN(4) == 0 {
		share = `,"share":[["` + generatedNames[0] + `","` + generatedNames[1+g.IntN(2)] + `"]` + g.Pick("", `,["x.w.p2.test","y.w.p2.test"]`) + `]`
	}
	return `{"handler":"misdirected","scope":"` + g.Pick("sni", "site", "certificate") + `"` + share + g.Pick("", "", `,"report_only":true`) + `},`
}

// private are matchers that tell clients apart; httptest's pass them.
var private = []string{"", "", "", `,"remote_ip":{"ranges":["0.0.0.0/0"]}`, `,"not":[{"header":{"X-Nobody":["*"]}}]`, `,"path":["/"]`}

// site returns a route, and notes the names that stand in it openly.
func (g *generator) site(open map[string]bool) string {
	handlers := `{"handler":"static_response","body":"site"}`
	if g.IntN(2) == 0 {
		handlers = g.guard() + handlers
	}
	outer, beside := g.patterns(), g.Pick(private...)
	isOpen := beside == "" || strings.Contains(beside, "path")
	if g.IntN(2) == 0 {
		inner, besideInner := g.patterns(), g.Pick(private...)
		for _, name := range inner {
			if isOpen && (besideInner == "" || strings.Contains(besideInner, "path")) && matches(outer, name) {
				open[name] = true
			}
		}
		handlers = `{"handler":"subroute","routes":[{"match":[{"host":` + testcaddy.List(inner) + besideInner + `}],"handle":[` + handlers + `]}]}`
	}
	for _, name := range outer {
		open[name] = open[name] || isOpen
	}
	return `{"match":[{"host":` + testcaddy.List(outer) + beside + `}],"terminal":true,"handle":[` + handlers + `]}`
}

// matches tells whether one of the patterns is for a name.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		p, n := strings.Split(pattern, "."), strings.Split(name, ".")
		for i := range p {
			if len(p) != len(n) || p[i] != "*" && p[i] != n[i] {
				return false
			}
		}
		return true
	})
}

func (g *generator) policies() string {
	var list []string
	for range g.IntN(4) {
		list = append(list, `{"match":{"sni":`+g.Some(g.Patterns, 3)+g.Pick("", "", "", `,"remote_ip":{"ranges":["10.0.0.0/8"]}`, `,"remote_ip":{"ranges":["192.0.2.0/24"]}`, `,"sni_regexp":{"pattern":"^[ab]"}`)+`}`+
			g.Pick("", `,"client_authentication":{"mode":"require"}`, `,"client_authentication":{"mode":"request"}`, `,"alpn":["h2"]`)+`}`)
	}
	list = append(list, g.Pick(`{}`, `{}`, `{"client_authentication":{"mode":"require"}}`))
	return strings.Join(list, ",")
}

func (g *generator) config() generated {
	c := generated{open: make(map[string]bool), most: 1 + g.IntN(3)}
	var routes, list []string
	for range g.IntN(6) {
		routes = append(routes, g.site(c.open))
	}
	c.listed = g.Few(generatedNames, len(generatedNames))
	for _, name := range c.listed {
		list = append(list, `"https://`+name+`"`)
	}
	routes = append(routes, fmt.Sprintf(`{"match":[{"host":["nobody.test"]}],"handle":[{"handler":"test_probe",
		"wrappers":[{"max_origins":%d},{"origins":["sites"],"max_origins":%d},{"origins":[%s]},{"origins":["none"]}]}]}`, c.most, c.most, strings.Join(list, ",")))
	if g.IntN(2) == 0 {
		routes = append(routes, `{"handle":[`+g.Pick("", g.guard())+`{"handler":"static_response","body":"catch-all"}]}`)
	}
	c.json = `"strict_sni_host":` + g.Pick("true", "false", "false") + `,"tls_connection_policies":[` + g.policies() + `],"routes":[` + strings.Join(routes, ",") + `]`
	return c
}
