package misdirected

import (
	"fmt"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// snapshot is of a server with these sites: a.d1.test and b.d1.test are one,
// *.w.d1.test another, m.d1.test asks for client certificates, p.d1.test has a
// TLS policy of its own, q.d1.test a certificate of its own, s.d1.test shares a
// route with a path of all hosts, and there is a catch-all. One certificate covers
// a, b, m, o and p.
func snapshot(t testing.TB) *authority.Snapshot {
	t.Helper()
	apps := `{` + testcaddy.TLSApp(t, `{}`,
		[]string{"a.d1.test", "b.d1.test", "m.d1.test", "o.d1.test", "p.d1.test"},
		[]string{"*.w.d1.test"},
		[]string{"q.d1.test"},
	) + `,"http":{"servers":{"srv0":{` + testcaddy.NoRedirects + `,"strict_sni_host":false,
		"tls_connection_policies":[
			{"match":{"sni":["m.d1.test"]},"client_authentication":{"mode":"require"}},
			{"match":{"sni":["p.d1.test"]},"alpn":["http/1.1"]},
			{"match":{"sni":["q.d1.test"]},"certificate_selection":{"any_tag":["q.d1.test"]}},
			{}],
		"routes":[
			{"match":[{"host":["a.d1.test","b.d1.test"]}],"terminal":true},
			{"match":[{"host":["*.w.d1.test"]}],"terminal":true},
			{"match":[{"host":["m.d1.test"]}],"terminal":true},
			{"match":[{"host":["p.d1.test"]}],"terminal":true},
			{"match":[{"host":["q.d1.test"]}],"terminal":true},
			{"match":[{"host":["s.d1.test"]},{"path":["/shared/*"]}]},
			{"handle":[{"handler":"misdirected"}]}]}}}}`
	srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, apps, ""))
	return srv.Routes[len(srv.Routes)-1].Handlers[0].(*Handler).server.Snapshot()
}

func TestDecide(t *testing.T) {
	s := snapshot(t)
	type asked struct {
		request
		want   Reason
		wanted string // the host decided on; the request's if empty
	}
	// over asks for host on a connection with that SNI
	over := func(sni, host string, want Reason) asked {
		return asked{request: request{tls: true, sni: sni, host: host, remoteAddr: "192.0.2.1:50000"}, want: want}
	}
	with := func(a asked, change func(*asked)) asked {
		change(&a)
		return a
	}
	from := func(addr string) func(*asked) { return func(a *asked) { a.remoteAddr = addr } }
	forward := func(a *asked) { a.forward = true }
	http10 := func(a *asked) { a.http10 = true }
	hostField := func(fields ...string) func(*asked) { return func(a *asked) { a.hostField = fields } }
	host := func(name string) func(*asked) { return func(a *asked) { a.wanted = name } }

	for _, test := range []struct {
		name     string
		handler  Handler
		requests []asked
	}{
		{
			name: "step 1: no TLS, no SNI to judge by",
			requests: []asked{
				{request: request{host: "m.d1.test"}, want: NoTLS},
				{request: request{host: ""}, want: NoTLS},
			},
		},
		{
			name: "step 1: a forward proxy's requests", // Checklist: M3.
			requests: []asked{
				with(over("a.d1.test", "elsewhere.test:443", ForwardProxy), func(a *asked) { forward(a); host("elsewhere.test")(a) }),
				with(over("", "elsewhere.test", ForwardProxy), forward),
				with(over("invalid:443", "elsewhere.test", ForwardProxy), forward),
				with(over("a.d1.test", "a.d1.test", SameHost), forward),
				with(over("a.d1.test", "b.d1.test", OtherHost), forward),
				with(over("a.d1.test", "x.w.d1.test", OtherHost), forward),
				with(over("a.d1.test", "m.d1.test", OtherHost), forward),
				with(over("a.d1.test", "s.d1.test", OtherHost), forward),
				with(over("a.d1.test", "m.d1.test.", OddHost), forward),
				with(over("a.d1.test", "", EmptyHost), forward),
				with(over("a.d1.test", "a b", InvalidHost), forward),
			},
		},
		{
			name:    "step 2: trusted gateways, by the other end of the connection",
			handler: Handler{TrustedGateways: []string{"10.0.0.0/8", "2001:db8::1", "::ffff:172.16.0.0/112"}},
			requests: []asked{
				with(over("a.d1.test", "m.d1.test", TrustedGateway), from("10.1.2.3:1")),
				with(over("a.d1.test", "m.d1.test", TrustedGateway), from("[::ffff:10.1.2.3]:1")),
				with(over("a.d1.test", "m.d1.test", TrustedGateway), from("[2001:db8::1]:1")),
				with(over("a.d1.test", "m.d1.test", TrustedGateway), from("[2001:db8::1%eth0]:1")),
				with(over("a.d1.test", "m.d1.test", TrustedGateway), from("172.16.9.9:1")),
				with(over("a.d1.test", "a b", TrustedGateway), from("10.1.2.3:1")),
				with(over("a.d1.test", "m.d1.test", OtherHost), from("11.1.2.3:1")),
				with(over("a.d1.test", "m.d1.test", OtherHost), from("@")),
				with(over("a.d1.test", "m.d1.test", OtherHost), from("10.1.2.3")),
				with(over("a.d1.test", "m.d1.test", OtherHost), from("")),
			},
		},
		{
			name: "step 3: what no other connection would help", // Checklist: M8.
			requests: []asked{
				over("a.d1.test", "", EmptyHost),
				over("a.d1.test", "a b", InvalidHost),
				over("a.d1.test", "*.w.d1.test", InvalidHost),
				over("", "a b", InvalidHost),
				with(over("a.d1.test", "a.d1.test", TwoHosts), hostField("b.d1.test")),
				with(over("a.d1.test", "b.d1.test", TwoHosts), hostField("a.d1.test")),
				with(over("a.d1.test", "a.d1.test", TwoHosts), hostField("a.d1.test", "b.d1.test")),
				with(over("a.d1.test", "a.d1.test", TwoHosts), hostField("a b")),
				with(over("a.d1.test", "a.d1.test", TwoHosts), hostField("")),
				with(over("a.d1.test", "a.d1.test", SameHost), hostField("A.D1.test:443")),
			},
		},
		{
			name: "step 3: HTTP/1.0 without Host is the SNI's, if Caddy routes it there", // Checklist: M11.
			requests: []asked{
				with(over("unnamed.test", "", SameHost), func(a *asked) { http10(a); host("unnamed.test")(a) }),
				with(over("", "", NoSNI), http10),
				with(over("a.d1.test", "", EmptyHost), http10),
				with(over("m.d1.test", "", EmptyHost), http10),
				with(over("invalid:443", "", EmptyHost), http10),
				with(over("a.d1.test", "b.d1.test", OtherHost), http10),
			},
		},
		{
			name: "step 4: no SNI, same_policy", // Checklist: M14.
			requests: []asked{
				over("", "a.d1.test", NoSNI),
				over("", "unnamed.test", NoSNI),
				over("", "127.0.0.1", NoSNI),
				over("", "q.d1.test", NoSNI), // certificate selection aside
				over("", "p.d1.test", NoSNIPolicy),
				over("", "m.d1.test", NoSNIPolicy),
			},
		},
		{
			name:    "step 4: no SNI, accept", // Checklist: M14.
			handler: Handler{MissingSNI: MissingSNIAccept},
			requests: []asked{
				over("", "m.d1.test", NoSNI),
				over("", "a b", InvalidHost),
				over("a.d1.test", "b.d1.test", OtherHost),
			},
		},
		{
			name:    "step 4: no SNI, reject", // Checklist: M14.
			handler: Handler{MissingSNI: MissingSNIReject},
			requests: []asked{
				over("", "a.d1.test", NoSNIRefused),
				over("", "127.0.0.1", NoSNIRefused),
				over("a.d1.test", "a.d1.test", SameHost),
			},
		},
		{
			name: "step 5: the host is the SNI, whatever its spelling and port", // Checklist: M12, M13.
			requests: []asked{
				over("a.d1.test", "a.d1.test", SameHost),
				over("A.d1.TEST", "a.d1.test", SameHost),
				with(over("a.d1.test", "A.D1.test", SameHost), host("a.d1.test")),
				with(over("a.d1.test", "a.d1.test:443", SameHost), host("a.d1.test")),
				with(over("a.d1.test", "a.d1.test:0443", SameHost), host("a.d1.test")),
				with(over("a.d1.test", "a.d1.test:8443", SameHost), host("a.d1.test")),
				with(over("unnamed.test", "unnamed.test.:443", SameHost), host("unnamed.test")),
				over("m.d1.test", "m.d1.test", SameHost),
			},
		},
		{
			name: "step 3: a spelling that Caddy routes to another site", // Checklist: M12.
			requests: []asked{
				over("a.d1.test", "a.d1.test.", OddHost),
				over("a.d1.test", "A.d1.test.:443", OddHost),
				over("a.d1.test", "m.d1.test.", OddHost),
				over("", "a.d1.test.", OddHost),
			},
		},
		{
			name: "an SNI that is none equals no host: it selected no policy for it",
			requests: []asked{
				over("a.d1.test:443", "a.d1.test", OtherHost),
				over(" m.d1.test", "m.d1.test", OtherHost),
				over("m.d1.test.", "m.d1.test", OtherHost),
				over("m.d1.te\u017ft", "m.d1.test", OtherHost),
				over("*.w.d1.test", "x.w.d1.test", OtherHost),
			},
		},
		{
			name:    "step 6: share",
			handler: Handler{Share: [][]string{{"a.d1.test", "M.d1.test."}, {"b.d1.test", "q.d1.test", "bücher.test"}}},
			requests: []asked{
				over("a.d1.test", "m.d1.test", Shared),
				over("m.d1.test", "a.d1.test", Shared),
				over("b.d1.test", "xn--bcher-kva.test", Shared),
				over("a.d1.test", "b.d1.test", OtherHost),
				over("q.d1.test", "m.d1.test", OtherHost),
				over("", "m.d1.test", NoSNIPolicy),
				over(" a.d1.test", "m.d1.test", OtherHost),
				over("x.test", "y.test", OtherHost),
			},
		},
		{
			name: "step 7: scope sni", // Checklist: M1.
			requests: []asked{
				over("a.d1.test", "b.d1.test", OtherHost),
				over("a.d1.test", "o.d1.test", OtherHost),
				over("a.d1.test", "127.0.0.1", OtherHost),
				over("a.d1.test", "m.d1.test", OtherHost),
			},
		},
		{
			name:    "step 7: scope site",
			handler: Handler{Scope: ScopeSite},
			requests: []asked{
				over("a.d1.test", "b.d1.test", SameSite),
				over("x.w.d1.test", "y.w.d1.test", SameSite),
				over("unnamed.test", "other.test", SameSite), // both the catch-all's
				over("a.d1.test", "x.w.d1.test", OtherSite),
				over("a.d1.test", "unnamed.test", OtherSite),
				over("a.d1.test", "m.d1.test", OtherSite),
				over("x.w.d1.test", "y.x.w.d1.test", OtherSite),
				over("a.d1.test:443", "b.d1.test", OtherHost),
			},
		},
		{
			name:    "step 7: scope certificate", // Checklist: M1, M17.
			handler: Handler{Scope: ScopeCertificate},
			requests: []asked{
				over("a.d1.test", "b.d1.test", Covered),
				over("a.d1.test", "o.d1.test", Covered), // the catch-all's
				over("a.d1.test", "unnamed.test", NotCovered),
				over("a.d1.test", "m.d1.test", OtherPolicy),
				over("a.d1.test", "p.d1.test", OtherPolicy),
				over("m.d1.test", "a.d1.test", OtherPolicy),
				over("x.w.d1.test", "y.w.d1.test", Covered),
				over("x.w.d1.test", "w.d1.test", NotCovered),
				over("x.w.d1.test", "z.y.w.d1.test", NotCovered),
				over("q.d1.test", "a.d1.test", NotCovered),
				over("a.d1.test:443", "b.d1.test", OtherHost),
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			gate, err := test.handler.compile()
			if err != nil {
				t.Fatal(err)
			}
			for _, asked := range test.requests {
				got, gotHost := gate.decide(s, &asked.request)
				wanted := asked.wanted
				if wanted == "" {
					wanted = asked.host
				}
				if got != asked.want || gotHost != wanted {
					t.Errorf("%+v: %v for host %q, want %v for %q", asked.request, got, gotHost, asked.want, wanted)
				}
			}
		})
	}
}

// Reasons are a closed list: each has a text, an outcome to be counted as, and a
// status that fits it.
func TestReasons(t *testing.T) {
	statuses := map[outcome]int{misdirected: 421, badHost: 400}
	seen := make(map[string]Reason)
	for r := range reasonCount {
		if other, ok := seen[r.String()]; ok || r.String() == "" {
			t.Errorf("reason %d has the text %q of %d", r, r, other)
		}
		seen[r.String()] = r
		out := reasons[r].outcome
		if r.Status() != statuses[out] {
			t.Errorf("reason %v has status %d and outcome %q", r, r.Status(), outcomes[out])
		}
		if (outcomes[out] == "") != (r == NoTLS) {
			t.Errorf("reason %v is counted as %q", r, outcomes[out])
		}
	}
}

func TestCompile(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler Handler
		want    string
	}{
		{"scope", Handler{Scope: "host"}, "reading scope 'host': must be sni, site or certificate"},
		{"missing_sni", Handler{MissingSNI: "pass"}, "reading missing_sni 'pass': must be same_policy, accept or reject"},
		{"wildcard in share", Handler{Share: [][]string{{"a.test", "*.test"}}}, "reading share name '*.test': must be an exact host name: a wildcard is not allowed here"},
		{"port in share", Handler{Share: [][]string{{"a.test", "b.test:443"}}}, "reading share name 'b.test:443': must be an exact host name: a port is not allowed here"},
		{"invalid name in share", Handler{Share: [][]string{{"a.test", "b test"}}}, "reading share name 'b test': must be an exact host name: only letters, digits, '-', '_' and '.' are allowed in a name"},
		{"name twice in a group", Handler{Share: [][]string{{"a.test", "A.test."}}}, "reading share name 'A.test.': it is in its group twice"},
		{"name in two groups", Handler{Share: [][]string{{"a.test", "b.test"}, {"c.test", "b.test"}}}, "reading share name 'b.test': it is in another group too"},
		{"group of one", Handler{Share: [][]string{{"a.test"}}}, "reading share group [a.test]: must have at least two names"},
		{"CIDR", Handler{TrustedGateways: []string{"10.0.0.0/33"}}, "reading trusted_gateways '10.0.0.0/33': must be an IP address or a CIDR range: parsing CIDR expression: '10.0.0.0/33': netip.ParsePrefix(\"10.0.0.0/33\"): prefix length out of range"},
		{"all at once", Handler{Scope: "x", MissingSNI: "y"}, "reading scope 'x': must be sni, site or certificate\nreading missing_sni 'y': must be same_policy, accept or reject"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := test.handler.compile(); err == nil || err.Error() != test.want {
				t.Errorf("error = %v, want %s", err, test.want)
			}
		})
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	s := snapshot(t)
	for _, test := range decisions(t, s) {
		if n := testing.AllocsPerRun(100, func() { test.gate.decide(s, &test.request) }); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	s := snapshot(b)
	for _, test := range decisions(b, s) {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				test.gate.decide(s, &test.request)
			}
		})
	}
}

type decision struct {
	name string
	gate gate
	request
}

// decisions is one request for each way through the decision.
func decisions(t testing.TB, s *authority.Snapshot) (list []decision) {
	add := func(want Reason, h Handler, req request) {
		gate, err := h.compile()
		if err != nil {
			t.Fatal(err)
		}
		req.tls = true
		if got, _ := gate.decide(s, &req); got != want {
			t.Fatalf("%+v: %v, want %v", req, got, want)
		}
		list = append(list, decision{fmt.Sprint(want), gate, req})
	}
	a, b := "a.d1.test", "b.d1.test:443"
	add(ForwardProxy, Handler{}, request{sni: a, host: "elsewhere.test", forward: true})
	add(TrustedGateway, Handler{TrustedGateways: []string{"10.0.0.0/8"}}, request{sni: a, host: b, remoteAddr: "10.1.2.3:40000"})
	add(EmptyHost, Handler{}, request{sni: a})
	add(InvalidHost, Handler{}, request{sni: a, host: "a b"})
	add(TwoHosts, Handler{}, request{sni: a, host: a, hostField: []string{b}})
	add(NoSNI, Handler{}, request{host: a})
	add(NoSNIPolicy, Handler{}, request{host: "m.d1.test"})
	add(SameHost, Handler{}, request{sni: a, host: a})
	add(Shared, Handler{Share: [][]string{{a, "b.d1.test"}}}, request{sni: a, host: b})
	add(OtherHost, Handler{}, request{sni: a, host: b})
	add(SameSite, Handler{Scope: ScopeSite}, request{sni: a, host: b})
	add(OtherSite, Handler{Scope: ScopeSite}, request{sni: a, host: "q.d1.test"})
	add(Covered, Handler{Scope: ScopeCertificate}, request{sni: a, host: b})
	add(NotCovered, Handler{Scope: ScopeCertificate}, request{sni: a, host: "q.d1.test"})
	add(OtherPolicy, Handler{Scope: ScopeCertificate}, request{sni: a, host: "m.d1.test"})
	return list
}
