package authority

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
)

// fakeCertificates takes the place of Caddy's certificate cache.
type fakeCertificates [][]string

// install lets a snapshot see certificates with these names, new ones each time.
func (list fakeCertificates) install(s *Snapshot) {
	var certs []certmagic.Certificate
	for _, names := range list {
		cert := certmagic.Certificate{Names: names}
		cert.Leaf = &x509.Certificate{DNSNames: names}
		certs = append(certs, cert)
	}
	s.certificates.find = func(name string) (found []certmagic.Certificate) {
		_, parent, _ := strings.Cut(name, ".")
		for _, cert := range certs {
			if slices.Contains(cert.Names, name) || slices.Contains(cert.Names, "*."+parent) {
				found = append(found, cert)
			}
		}
		return found
	}
}

func guardFor(options string) string { return `{"handler":"test_guard"` + options + `}` }

func TestRefuses(t *testing.T) {
	const (
		own  = `,"scope":"sni"`
		site = `,"scope":"site"`
		cert = `,"scope":"certificate"`
	)
	wild := fakeCertificates{{"*.w.test", "w.test"}}
	for _, test := range []struct {
		name         string
		server       string // routes and more
		certificates fakeCertificates
		sni          string
		here         string // what Refuses says of it
		elsewhere    string // what RefusedElsewhere says of it
	}{
		{"a guard for its own name alone", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `,` + hostRoute("b.w.test") + `]`,
			wild, "b.w.test", "a.w.test", "no"},
		{"its own name", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `,` + hostRoute("b.w.test") + `]`,
			wild, "a.w.test", "no", "b.w.test"},
		{"each is refused on the other's connection", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `,` + hostRoute("b.w.test", guardFor(own)) + `]`,
			wild, "a.w.test", "b.w.test", "b.w.test"},
		{"the certificate's hosts", `"routes":[` + hostRoute("a.w.test", guardFor(cert)) + `,` + hostRoute("b.w.test", guardFor(cert)) + `]`,
			wild, "a.w.test", "no", "no"},
		{"a guard that only reports", `"routes":[` + hostRoute("a.w.test", guardFor(own+`,"report_only":true`)) + `,` + hostRoute("b.w.test") + `]`,
			wild, "b.w.test", "no", "no"},
		{"no guard", `"routes":[` + presence + `,` + hostRoute("a.w.test b.w.test") + `]`, wild, "b.w.test", "no", "no"},
		{"certificates apart", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `,` + hostRoute("b.w.test", guardFor(own)) + `]`,
			fakeCertificates{{"a.w.test"}, {"b.w.test"}}, "a.w.test", "no", "no"},
		{"a certificate of its own beside the wildcard", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `,` + hostRoute("b.w.test", guardFor(own)) + `]`,
			fakeCertificates{{"*.w.test"}, {"b.w.test"}}, "b.w.test", "no", "a.w.test"},
		{"only one of two certificates covers it", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `,` + hostRoute("b.w.test") + `]`,
			fakeCertificates{{"b.w.test"}, {"b.w.test", "a.w.test"}}, "b.w.test", "a.w.test", "no"},
		{"another site", `"routes":[` + hostRoute("a.w.test c.w.test", guardFor(site)) + `,` + hostRoute("b.w.test") + `]`,
			wild, "b.w.test", "a.w.test", "no"},
		{"the same site", `"routes":[` + hostRoute("a.w.test c.w.test", guardFor(site)) + `]`, wild, "c.w.test", "no", "no"},
		{"a share group", `"routes":[` + hostRoute("a.w.test", guardFor(own+`,"share":[["a.w.test","b.w.test"]]`)) + `,` + hostRoute("b.w.test c.w.test") + `]`,
			wild, "b.w.test", "no", "no"},
		{"beside a share group", `"routes":[` + hostRoute("a.w.test", guardFor(own+`,"share":[["a.w.test","b.w.test"]]`)) + `,` + hostRoute("b.w.test c.w.test") + `]`,
			wild, "c.w.test", "a.w.test", "no"},
		{"another TLS policy", `"tls_connection_policies":[{"match":{"sni":["a.w.test"]},"alpn":["h2"]},{}],"routes":[` + hostRoute("a.w.test b.w.test", guardFor(cert)) + `]`,
			wild, "b.w.test", "a.w.test", "a.w.test"},
		{"a name in a TLS policy alone", `"tls_connection_policies":[{"match":{"sni":["a.w.test"]},"alpn":["h2"]},{}],"routes":[` + hostRoute("*.w.test", guardFor(cert)) + `]`,
			wild, "b.w.test", "a.w.test", "a.w.test"},
		{"a catch-all", `"routes":[` + hostRoute("b.w.test") + `,{"handle":[` + guardFor(own) + `]}]`, fakeCertificates{{"*.w.test"}}, "b.w.test", "*.w.test", "no"},
		{"a catch-all, and the certificate's own names", `"routes":[` + hostRoute("b.w.test") + `,{"handle":[` + guardFor(own) + `]}]`,
			fakeCertificates{{"b.w.test", "c.w.test"}}, "b.w.test", "c.w.test", "no"},
		{"a wildcard site", `"routes":[` + hostRoute("b.w.test") + `,` + hostRoute("*.w.test", guardFor(own)) + `]`, wild, "b.w.test", "*.w.test", "no"},
		{"under a wildcard site", `"routes":[` + hostRoute("b.w.test") + `,` + hostRoute("*.w.test", guardFor(own)) + `]`, wild, "x.w.test", "*.w.test", "b.w.test"},
		{"a pattern with a wildcard inside", `"routes":[` + hostRoute("b.w.test") + `,` + hostRoute("a.*.test", guardFor(own)) + `]`, wild, "b.w.test", "a.w.test", "no"},
		{"no site", `"routes":[` + hostRoute("b.w.test", guardFor(own)) + `]`, wild, "b.w.test", "no", "no"},
		{"nested", `"routes":[` + hostRoute("*.w.test", `{"handler":"subroute","routes":[`+hostRoute("a.w.test", guardFor(own))+`]}`) + `]`, wild, "b.w.test", "a.w.test", "no"},
		{"an address", `"routes":[` + hostRoute("10.0.0.1", guardFor(own)) + `,` + hostRoute("b.w.test") + `]`,
			fakeCertificates{{"b.w.test"}}, "b.w.test", "no", "no"},
		{"strict_sni_host", `"strict_sni_host":true,"routes":[` + presence + `,` + hostRoute("a.w.test b.w.test") + `]`, wild, "b.w.test", "a.w.test", "*.w.test"},
		{"no certificate", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `]`, nil, "a.w.test", "unknown", "unknown"},
		{"no SNI", `"routes":[` + hostRoute("a.w.test", guardFor(own)) + `]`, wild, "", "unknown", "unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := test.server
			if !strings.Contains(text, "tls_connection_policies") {
				text = `"tls_connection_policies":[{}],` + text
			}
			_, s := server(t, text)
			test.certificates.install(s)
			shown := func(r Refusal, name string) string {
				if r.Answer == Yes {
					return name
				}
				return r.Answer.String()
			}
			for range 2 { // found, and kept
				r := s.Refuses(test.sni)
				if got := shown(r, r.Host); got != test.here {
					t.Errorf("refused on its connection: %s, want %s", got, test.here)
				}
				r = s.RefusedElsewhere(test.sni)
				// any of the connections will do, where there are more
				if got := shown(r, r.SNI); got != test.elsewhere && !(r.Answer == Yes && s.refused(r.SNI, test.sni) && strings.Contains(test.elsewhere, ".test")) {
					t.Errorf("refused on a connection of %s, want %s", got, test.elsewhere)
				}
			}
		})
	}
}

// A refusalMaker writes random servers for names under one wildcard.
type refusalMaker struct{ *rand.Rand }

func (m refusalMaker) pick(from ...string) string { return from[m.IntN(len(from))] }

func (m refusalMaker) guard() string {
	if m.IntN(3) == 0 {
		return ""
	}
	options := `,"scope":"` + m.pick("sni", "site", "certificate", "certificate", "certificate") + `"`
	if m.IntN(5) == 0 {
		options += `,"report_only":true`
	}
	if m.IntN(4) == 0 {
		options += `,"share":[["a.w.test","` + m.pick("b.w.test", "c.w.test", "s.w.test") + `"]]`
	}
	return guardFor(options)
}

func (m refusalMaker) handlers() string {
	if m.IntN(4) == 0 {
		return `{"handler":"subroute","routes":[` + hostRoute(m.pick("a.w.test", "b.x.w.test", "*.w.test"), m.guard()) + `]}`
	}
	return m.guard()
}

func (m refusalMaker) server() string {
	patterns := []string{"a.w.test", "b.w.test", "c.w.test", "a.x.w.test", "b.x.w.test", "w.test", "*.w.test", "*.x.w.test", "a.*.test", "b.*.w.test"}
	m.Shuffle(len(patterns), func(i, j int) { patterns[i], patterns[j] = patterns[j], patterns[i] })
	routes := []string{presence}
	for i := 0; i+2 < len(patterns); {
		n := 1 + m.IntN(2)
		routes = append(routes, hostRoute(strings.Join(patterns[i:i+n], " "), m.handlers()))
		i += n
	}
	if m.IntN(2) == 0 {
		routes = append(routes, `{"handle":[`+m.handlers()+`]}`)
	}
	var policies []string
	for range m.IntN(3) {
		policies = append(policies, `{"match":{"sni":["`+m.pick("a.w.test", "c.w.test", "d.w.test", "*.x.w.test", "*.*.test")+`"]},"alpn":["`+m.pick("h2", "http/1.1")+`"]}`)
	}
	text := fmt.Sprintf(`"tls_connection_policies":[%s],"strict_sni_host":%t,"routes":[%s]`,
		strings.Join(append(policies, `{}`), ","), m.IntN(8) == 0, strings.Join(routes, ","))
	return strings.ReplaceAll(text, `"handle":[]`, `"handle":[{"handler":"test_presence"}]`)
}

func (m refusalMaker) certificates() (list fakeCertificates) {
	list = fakeCertificates{{"*.w.test", "w.test"}, {"*.x.w.test"}, {"a.w.test", "b.w.test"}, {"c.w.test"}, {"b.x.w.test", "b.w.test"}, {"d.w.test", "*.x.w.test"}}
	m.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:1+m.IntN(len(list)-1)]
}

// Whichever order names are asked in, the answers are those of asking about each
// host on each connection, also after certificates have changed.
func TestRefusesAsEachHostOnEachConnection(t *testing.T) {
	var names []string
	for _, parent := range []string{"w.test", "x.w.test", "y.w.test"} {
		names = append(names, parent)
		for _, label := range []string{"a", "b", "c", "d", "s", "other-1", "other-2"} {
			names = append(names, label+"."+parent)
		}
	}
	answers := make(map[Answer]int)
	for seed := range uint64(150) {
		m := refusalMaker{rand.New(rand.NewPCG(seed, 5))}
		text := m.server()
		_, s := server(t, text)
		synctest.Test(t, func(t *testing.T) {
			for range 3 {
				certs := m.certificates()
				certs.install(s)
				time.Sleep(2 * freshFor)
				fail := func(format string, args ...any) {
					t.Fatalf(format+"\ncertificates %v\n%s", append(args, certs, text)...)
				}
				for _, i := range m.Perm(len(names)) {
					here := s.Refuses(names[i])
					if want := hereOracle(s, names, names[i]); here.Answer != want {
						fail("refused on a connection of %s: %v, want %v", names[i], here, want)
					}
					elsewhere := s.RefusedElsewhere(names[i])
					if want := elsewhereOracle(s, names, names[i]); elsewhere.Answer != want {
						fail("%s is refused elsewhere: %v, want %v", names[i], elsewhere, want)
					}
					answers[here.Answer]++
					answers[elsewhere.Answer]++
					if here.Answer == Yes && !strings.HasPrefix(here.Host, "*.") && !s.refused(here.SNI, here.Host) {
						fail("%v is no refusal", here)
					}
				}
			}
		})
	}
	for _, a := range []Answer{No, Yes, Unknown} {
		if answers[a] < 1000 {
			t.Errorf("only %d answers were %s: too few to tell", answers[a], a)
		}
	}
}

func hereOracle(s *Snapshot, names []string, sni string) Answer {
	p := s.certificates.ask(sni)
	if len(p.leaves) == 0 {
		return Unknown
	}
	for _, host := range names {
		if slices.ContainsFunc(p.covers, func(c *coverage) bool { return c.has(host) }) && s.refused(sni, host) {
			return Yes
		}
	}
	return No
}

func elsewhereOracle(s *Snapshot, names []string, host string) Answer {
	if len(s.certificates.ask(host).valid) == 0 {
		return Unknown
	}
	for _, sni := range names {
		covers := slices.ContainsFunc(s.certificates.ask(sni).covers, func(c *coverage) bool { return c.has(host) })
		if covers && s.routes.of(sni) != nil && s.refused(sni, host) {
			return Yes
		}
	}
	return No
}

// Where TLS policies differ in fallback_sni alone, what counts is whether the
// host has a certificate: an answer does not outlast that.
func TestRefusesWithFallbackSNI(t *testing.T) {
	_, s := server(t, `"tls_connection_policies":[{"match":{"sni":["b.w.test"]},"fallback_sni":"b.w.test"},{}],
		"routes":[`+hostRoute("a.w.test b.w.test", guardFor(`,"scope":"certificate"`))+`]`)
	fakeCertificates{{"a.w.test", "b.w.test"}}.install(s)
	find, missing := s.certificates.find, true
	s.certificates.find = func(name string) []certmagic.Certificate {
		if name == "b.w.test" && missing {
			return nil
		}
		return find(name)
	}
	sets := NewOriginSets(&Server{snapshot: func() *Snapshot { return s }}, BySpelling, nil, 9)
	synctest.Test(t, func(t *testing.T) {
		for _, missing = range []bool{true, false, true} {
			time.Sleep(3 * freshFor)
			want := map[bool]Answer{true: Yes, false: No}[missing]
			if got := s.Refuses("a.w.test"); got.Answer != want {
				t.Errorf("b.w.test has no certificate: %t, and is refused: %s", missing, got.Answer)
			}
			if told := slices.Contains(sets.Find("a.w.test").Names, "b.w.test"); told == missing {
				t.Errorf("b.w.test has no certificate: %t, and clients are told of it: %t", missing, told)
			}
		}
	})
}

// A name that a client makes up costs no look at the hosts again, and what is
// known costs nothing.
func TestRefusesIsKept(t *testing.T) {
	asked := 0
	_, s := server(t, `"tls_connection_policies":[{}],"routes":[`+hostRoute("a.w.test b.w.test", guardFor(`,"scope":"certificate"`))+`,`+hostRoute("*.w.test")+`]`)
	fakeCertificates{{"*.w.test"}}.install(s)
	for _, g := range s.guards.all() {
		accepts := g.Accepts
		g.Accepts = func(s *Snapshot, sni, host string) bool {
			asked++
			return accepts(s, sni, host)
		}
	}
	s.Refuses("first.w.test")
	s.Refuses("second.w.test")
	before := asked
	for i := range 1000 {
		if got := s.Refuses(fmt.Sprintf("made-up-%d.w.test", i)); got.Answer != No {
			t.Fatalf("made-up-%d.w.test: %v", i, got)
		}
	}
	if asked != before {
		t.Errorf("the guard was asked %d times more for 1000 made-up names", asked-before)
	}
	s.RefusedElsewhere("a.w.test")
	s.Refuses("a.w.test")
	// Once a second the certificates are read: that is less than once a run.
	if n := testing.AllocsPerRun(1000, func() {
		s.Refuses("a.w.test")
		s.RefusedElsewhere("a.w.test")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRefuses: one wildcard certificate for all sites, guarded so that all
// of them must be asked. "first" is what the first connection pays.
func BenchmarkRefuses(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		var routes []string
		for i := range n {
			routes = append(routes, hostRoute(fmt.Sprintf("site-%d.w.test", i), guardFor(`,"scope":"certificate"`)))
		}
		s := originServer(b, `"tls":{}`, `"tls_connection_policies":[{}],"routes":[`+strings.Join(routes, ",")+`]`).Snapshot()
		fakeCertificates{{"*.w.test"}}.install(s)
		if got := s.Refuses("site-1.w.test"); got.Answer != No {
			b.Fatal(got)
		}
		b.Run(fmt.Sprintf("first/sites=%d", n), func(b *testing.B) {
			for b.Loop() {
				s.refusals.find(s, s.certificates.present("site-1.w.test"))
			}
		})
		b.Run(fmt.Sprintf("first_elsewhere/sites=%d", n), func(b *testing.B) {
			for b.Loop() {
				s.refusals.presentersNow(s, s.certificates.present("site-1.w.test").leaves[0])
			}
		})
		b.Run(fmt.Sprintf("kept/sites=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Refuses("site-1.w.test")
				s.RefusedElsewhere("site-1.w.test")
			}
		})
	}
}

// A host is a part of its header, in memory as well. What is kept of a name must
// not keep the header.
func TestNamesAreKeptWithoutTheirHeaders(t *testing.T) {
	_, s := server(t, `"tls_connection_policies":[{}],"routes":[`+hostRoute("*.w.test", guardFor(`,"scope":"certificate"`))+`]`)
	fakeCertificates{{"*.w.test"}}.install(s)
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	for i := range 500 {
		header := strings.Repeat("x", 64<<10) + fmt.Sprintf("host-%d.w.test", i)
		s.RefusedElsewhere(header[64<<10:])
		s.Refuses(header[64<<10:])
	}
	if after := inUse(); after > before+8<<20 {
		t.Errorf("%d KiB are in use after 500 names, %d before", after>>10, before>>10)
	}
	runtime.KeepAlive(s)
}

// Many connections ask at once, while certificates change.
func TestRefusesFromManyConnections(t *testing.T) {
	_, s := server(t, `"tls_connection_policies":[{}],"routes":[`+hostRoute("a.w.test", guardFor(`,"scope":"sni"`))+`,`+hostRoute("b.w.test c.w.test")+`]`)
	var certs atomic.Pointer[[]certmagic.Certificate]
	renew := func() {
		cert := certmagic.Certificate{Names: []string{"*.w.test"}}
		cert.Leaf = &x509.Certificate{DNSNames: cert.Names}
		certs.Store(&[]certmagic.Certificate{cert})
	}
	renew()
	s.certificates.find = func(string) []certmagic.Certificate { return *certs.Load() }
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 300 {
				if i%20 == 0 {
					renew()
				}
				sni := []string{"a.w.test", "b.w.test", "c.w.test"}[i%3]
				s.certificates.refresh(sni)
				if got := s.Refuses(sni).Answer; (got == Yes) != (sni != "a.w.test") {
					t.Errorf("a.w.test is refused on a connection of %s: %s", sni, got)
				}
				if got := s.RefusedElsewhere(sni).Answer; got == Yes && sni != "a.w.test" {
					t.Errorf("%s is refused elsewhere", sni)
				}
			}
		})
	}
	wg.Wait()
}
