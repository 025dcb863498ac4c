package authority

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// originServer provisions a server and returns its entry in the app.
func originServer(t testing.TB, tlsApp, text string) *Server {
	t.Helper()
	ctx := testcaddy.Provision(t, `{`+tlsApp+`,"http": {"servers": {"srv0": {`+testcaddy.NoRedirects+`, `+text+`}}}}`, "")
	app, err := ctx.App("connreuse")
	if err != nil {
		t.Fatal(err)
	}
	return app.(*App).servers[testcaddy.HTTPServer(t, ctx)]
}

func init() {
	caddy.RegisterModule(testPresence{})
}

// testPresence is a handler that makes its server known, as the origin listener
// wrapper does, and guards nothing.
type testPresence struct{}

func (testPresence) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_presence", New: func() caddy.Module { return new(testPresence) }}
}

func (testPresence) Provision(ctx caddy.Context) error {
	_, err := ForServer(ctx)
	return err
}

func (testPresence) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// presence is a route that nobody reaches.
const presence = `{"match":[{"host":["nobody.test"]}],"terminal":true,"handle":[{"handler":"test_presence"}]}`

func hostRoute(names string, handlers ...string) string {
	return `{"match":[{"host":["` + strings.ReplaceAll(names, " ", `","`) + `"]}],"terminal":true,"handle":[` + strings.Join(handlers, ",") + `]}`
}

func TestOriginSets(t *testing.T) {
	tlsApp := testcaddy.TLSApp(t, `{}`,
		[]string{"a.o1.test", "b.o1.test", "gone.o1.test", "10.1.1.1", "2001:db8::1"},
		[]string{"*.w.o1.test", "beside.o1.test"},
		[]string{"both.o1.test", "one.o1.test"},
		[]string{"both.o1.test", "two.o1.test"},
		[]string{"m.o1.test", "n.o1.test"},
	)
	server := originServer(t, tlsApp, `"strict_sni_host":false,
		"tls_connection_policies":[{"match":{"sni":["m.o1.test"]},"client_authentication":{"mode":"request"}},{}],
		"routes":[`+strings.Join([]string{
		hostRoute("a.o1.test"), hostRoute("b.o1.test B.w.o1.test"), hostRoute("10.1.1.1 2001:db8::1"),
		hostRoute("x.w.o1.test y.w.o1.test"),
		hostRoute("g.w.o1.test", `{"handler":"test_guard"}`),
		hostRoute("*.w.o1.test", `{"handler":"subroute","routes":[`+hostRoute("nested.w.o1.test far.o1.test")+`]}`),
		hostRoute("dot.w.o1.test. z.y.w.o1.test w.o1.test beside.o1.test"),
		hostRoute("both.o1.test one.o1.test two.o1.test m.o1.test n.o1.test"),
		presence,
	}, ",")+`]`)
	w := "b.w.o1.test beside.o1.test nested.w.o1.test x.w.o1.test y.w.o1.test"

	for _, test := range []struct {
		name   string
		naming Naming
		list   []string
		most   int
		sni    string
		want   string
		left   map[Absence]string
	}{
		{"names that certificate and sites spell out, and addresses", BySpelling, nil, 9, "a.o1.test", "10.1.1.1 2001:db8::1 b.o1.test", map[Absence]string{NotServed: "gone.o1.test"}},
		{"under a wildcard, what the certificate spells out", BySpelling, nil, 9, "made-up.w.o1.test", "beside.o1.test", map[Absence]string{}},
		{"both certificates must spell it out", BySpelling, nil, 9, "both.o1.test", "", map[Absence]string{NotCovered: "one.o1.test"}},
		{"no certificate spells out", BySpelling, nil, 9, "else.test", "", nil},
		{"no SNI names any", BySpelling, nil, 9, "", "", nil},

		{"exact names of sites, and addresses", BySites, nil, 9, "a.o1.test", "10.1.1.1 2001:db8::1 b.o1.test", map[Absence]string{NotServed: "gone.o1.test"}},
		{"under a wildcard, exact names of sites at any depth", BySites, nil, 9, "made-up.w.o1.test", w, map[Absence]string{Refused: "g.w.o1.test"}}, // Checklist: O4.
		{"without itself", BySites, nil, 9, "x.w.o1.test", strings.Replace(w, " x.w.o1.test", "", 1), map[Absence]string{Refused: "g.w.o1.test"}},
		{"the guard of the host decides", BySites, nil, 9, "g.w.o1.test", w, nil},
		{"no more than that", BySites, nil, 2, "made-up.w.o1.test", "b.w.o1.test beside.o1.test", nil},                           // Checklist: O14.
		{"both certificates must cover it", BySites, nil, 9, "both.o1.test", "", map[Absence]string{NotCovered: "one.o1.test"}},  // Checklist: O13.
		{"another rule for client certificates", BySites, nil, 9, "n.o1.test", "", map[Absence]string{OtherPolicy: "m.o1.test"}}, // Checklist: O15.
		{"the other way", BySites, nil, 9, "m.o1.test", "", map[Absence]string{OtherPolicy: "n.o1.test"}},                        // Checklist: O15.
		{"no certificate", BySites, nil, 9, "else.test", "", nil},
		{"no SNI", BySites, nil, 9, "", "", nil},

		{"a list, in its order", Listed, []string{"y.w.o1.test", "x.w.o1.test", "g.w.o1.test", "a.o1.test", "nowhere.test"}, 0, "x.w.o1.test", "y.w.o1.test x.w.o1.test",
			map[Absence]string{NotCovered: "a.o1.test", Refused: "g.w.o1.test", NotServed: "nowhere.test"}},
		{"a list, for no SNI", Listed, []string{"a.o1.test"}, 0, "", "", map[Absence]string{NotCovered: "a.o1.test"}},
		{"a list may name what no host matcher does", Listed, []string{"free.w.o1.test", "x.w.o1.test"}, 0, "free.w.o1.test", "free.w.o1.test x.w.o1.test", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			sets := NewOriginSets(server, test.naming, test.list, test.most)
			set := sets.Find(test.sni)
			if got := strings.Join(set.Names, " "); got != test.want {
				t.Errorf("names\n%s, want\n%s", got, test.want)
			}
			if sets.Find(test.sni) != set {
				t.Error("the set is not kept")
			}
			for reason, names := range set.Absent {
				want := test.left[Absence(reason)]
				if got := strings.Join(names, " "); test.left != nil && got != want {
					t.Errorf("left out as %v: %q, want %q", Absence(reason), got, want)
				}
			}
		})
	}
}

// Server names that nothing tells apart share one set, however many there are;
// each of them is judged as the host it is for the others, not as its own.
func TestOriginSetsAreShared(t *testing.T) {
	guarded := func(names, options string) string {
		return hostRoute(names, `{"handler":"test_guard"`+options+`}`)
	}
	server := originServer(t, testcaddy.TLSApp(t, `{}`, []string{"*.o2.test", "own.o2.test"}), `"strict_sni_host":false,
		"tls_connection_policies":[{"match":{"sni":["p.o2.test"]},"alpn":["h2"]},{}],"routes":[`+strings.Join([]string{
		hostRoute("a.o2.test b.o2.test"), guarded("c.o2.test", ""), guarded("s.o2.test", `,"share":[["s.o2.test","t.o2.test"]]`),
		hostRoute("p.o2.test"), hostRoute("own.o2.test"), hostRoute("*.o2.test"), presence,
	}, ",")+`]`)
	sets := NewOriginSets(server, BySites, nil, 9)
	want := "a.o2.test b.o2.test own.o2.test"

	first := sets.Find("c.o2.test") // refused by its own guard, for all others
	if got := strings.Join(first.Names, " "); got != want {
		t.Errorf("at first %s, want %s", got, want)
	}
	second := sets.Find("a.o2.test")
	if got := strings.Join(second.Names, " "); got != want {
		t.Errorf("for another name: %s, want %s", got, want)
	}
	if !slices.Contains(second.Absent[Refused], "c.o2.test") {
		t.Errorf("c.o2.test is not known to be refused: %v", second.Absent)
	}
	for _, sni := range []string{"a.o2.test", "b.o2.test", "c.o2.test", "own.o2.test"} {
		if sets.Find(sni) != second {
			t.Errorf("%s has a set of its own", sni)
		}
	}
	for i := range 5000 {
		if sets.Find(fmt.Sprintf("made-up-%d.o2.test", i)) != second {
			t.Fatal("a made-up name has a set of its own")
		}
	}
	for _, sni := range []string{"s.o2.test", "p.o2.test"} {
		if sets.Find(sni) == second {
			t.Errorf("%s has the set of the others", sni)
		}
	}
	if NewOriginSets(server, Listed, []string{"a.o2.test"}, 0).Find("a.o2.test") == second {
		t.Error("a listed name has the set of others")
	}
}

// A set is made once, however many certificates and sites there are: a guard that
// asks for the site makes sets for the sites it stands in alone, and names that
// pass on their own connection alone are no work for others.
func TestOriginSetsAreKept(t *testing.T) {
	const sites = 200
	routes := []string{hostRoute("one.o5.test two.o5.test", `{"handler":"test_guard","scope":"site"}`)}
	for i := range sites {
		routes = append(routes, hostRoute(fmt.Sprintf("s%d.o5.test", i)), hostRoute(fmt.Sprintf("s%d.x.o5.test", i), `{"handler":"test_guard","scope":"sni"}`))
	}
	server := originServer(t, testcaddy.TLSApp(t, `{}`, []string{"*.o5.test"}, []string{"*.x.o5.test"}),
		`"strict_sni_host":false,"tls_connection_policies":[{}],"routes":[`+strings.Join(append(routes, presence), ",")+`]`)
	sets := NewOriginSets(server, BySites, nil, 1000)

	made := make(map[*OriginSet]int)
	for range 3 {
		for i := range sites {
			made[sets.Find(fmt.Sprintf("s%d.o5.test", i))]++
			made[sets.Find(fmt.Sprintf("s%d.x.o5.test", i))]++
		}
		made[sets.Find("one.o5.test")]++
	}
	// the first for each certificate is made for its SNI alone
	if len(made) > 2*2+2 {
		t.Errorf("%d sets were made for 2 certificates and a site", len(made))
	}
	if got := len(sets.Find("s0.o5.test").Names); got != sites {
		t.Errorf("%d names, want %d", got, sites)
	}
	if got := len(sets.Find("s0.x.o5.test").Names); got != 0 {
		t.Errorf("%d names that pass on their own connection alone, want none", got)
	}
	if got := sets.Find("one.o5.test").Names; !slices.Contains(got, "two.o5.test") || slices.Contains(sets.Find("s0.o5.test").Names, "two.o5.test") {
		t.Errorf("two.o5.test is not told of on its own site alone: %d names there", len(got))
	}
}

// Certificates that are replaced change the next set at once, and no guard goes
// on believing in those before.
func TestOriginSetsAreNeverStale(t *testing.T) {
	server := originServer(t, `"tls":{}`, `"tls_connection_policies":[{}],"routes":[`+hostRoute("a.o3.test")+`,`+hostRoute("b.o3.test")+`,`+hostRoute("c.o3.test")+`,`+presence+`]`)
	s := server.Snapshot()
	var names []string
	var leaf *x509.Certificate
	issue := func(list ...string) {
		names, leaf = list, &x509.Certificate{DNSNames: list}
	}
	s.certificates.find = func(string) []certmagic.Certificate {
		cert := certmagic.Certificate{Names: names}
		cert.Leaf = leaf
		return []certmagic.Certificate{cert}
	}
	sets := NewOriginSets(server, BySites, nil, 9)

	issue("a.o3.test", "b.o3.test")
	if got := sets.Find("a.o3.test").Names; !slices.Equal(got, []string{"b.o3.test"}) {
		t.Fatalf("at first: %v", got)
	}
	if !s.Accepted("a.o3.test", "b.o3.test") || s.Accepted("a.o3.test", "c.o3.test") {
		t.Fatal("the first certificate is not the one believed in")
	}
	issue("a.o3.test", "c.o3.test")
	if s.Accepted("a.o3.test", "c.o3.test") {
		t.Fatal("this test tests nothing: the new certificate is seen without a look")
	}
	start := time.Now()
	if got := sets.Find("a.o3.test").Names; !slices.Equal(got, []string{"c.o3.test"}) {
		t.Errorf("after replacing the certificate: %v", got)
	}
	if !s.Accepted("a.o3.test", "c.o3.test") && time.Since(start) < freshFor {
		t.Error("an advertised name is refused")
	}
	issue("a.o3.test", "b.o3.test")
	if got := sets.Find("a.o3.test").Names; !slices.Equal(got, []string{"b.o3.test"}) {
		t.Errorf("after replacing it again: %v", got)
	}
}

// A look at the certificates that was slow must not undo a later one.
func TestRefreshWins(t *testing.T) {
	ps, err := copyPolicies(readPolicies(t, `[{}]`))
	if err != nil {
		t.Fatal(err)
	}
	before, after := &x509.Certificate{DNSNames: []string{"a.test"}}, &x509.Certificate{DNSNames: []string{"a.test", "b.test"}}
	cs := newCertificates(ps, new(caddytls.TLS))
	slow := true
	cs.find = func(string) []certmagic.Certificate {
		cert := certmagic.Certificate{Names: []string{"a.test"}}
		cert.Leaf = after
		if slow {
			slow = false
			cs.refresh("a.test") // meanwhile
			cert.Leaf = before
		}
		return []certmagic.Certificate{cert}
	}
	cs.present("a.test")
	if got := cs.present("a.test").leaves[0]; got != after {
		t.Error("the certificate before is believed in again")
	}
	slow = true
	if got := cs.refresh("a.test").leaves[0]; got != after {
		t.Error("refresh returns the certificate before")
	}
}

// The cost for a new connection must not depend on the number of sites:
//
//	go test -run - -bench OriginSets -count 10 ./internal/authority
func BenchmarkOriginSets(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		domain := fmt.Sprintf("o%d.test", n)
		var sites []string
		for i := range n {
			sites = append(sites, hostRoute(fmt.Sprintf("site-%d.%s", i, domain)))
		}
		server := originServer(b, testcaddy.TLSApp(b, `{}`, []string{"*." + domain}),
			`"tls_connection_policies":[{}],"routes":[`+strings.Join(append(sites, presence, hostRoute("*."+domain)), ",")+`]`)
		made := make([]string, 4096)
		for i := range made {
			made[i] = fmt.Sprintf("made-up-%d.%s", i, domain)
		}
		sets := NewOriginSets(server, BySites, nil, 32)
		b.Run(fmt.Sprintf("kept/sites=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sets.Find("site-5." + domain)
			}
		})
		b.Run(fmt.Sprintf("all_sites/sites=%d", n), func(b *testing.B) {
			names := make([]string, n)
			for i := range names {
				names[i] = fmt.Sprintf("site-%d.%s", i, domain)
			}
			i := 0
			for b.Loop() {
				sets.Find(names[i%n])
				i++
			}
		})
		b.Run(fmt.Sprintf("made_up/sites=%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				sets.Find(made[i%len(made)])
				i++
			}
		})
		b.Run(fmt.Sprintf("first/sites=%d", n), func(b *testing.B) {
			s := server.Snapshot()
			shown := s.certificates.refresh("site-5." + domain)
			for b.Loop() {
				sets.build(s, "site-5."+domain, "", shown)
			}
		})
	}
}
