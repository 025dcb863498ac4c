package misdirected

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// forwarder stands for the handler of the forwardproxy plugin.
type forwarder struct{}

func init() { caddy.RegisterModule(forwarder{}) }

func (forwarder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: forwardProxy, New: func() caddy.Module { return new(forwarder) }}
}

func (forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if forward(r) {
		_, err := io.WriteString(w, "forwarded")
		return err
	}
	return next.ServeHTTP(w, r)
}

// sites is a server with these sites: a.d1.test and b.d1.test are one,
// *.w.d1.test another, m.d1.test requires client certificates, r.d1.test requests
// them, p.d1.test has a TLS policy of its own, q.d1.test a certificate of its own,
// s.d1.test shares a route with a path of all hosts, and there is a catch-all, in
// which n.d1.test is named, with more handlers in it. One certificate covers a, b,
// m, o and p. Connections for dropped.d1.test are dropped.
func sites(t testing.TB, handlers ...string) *authority.Server {
	t.Helper()
	handlers = append([]string{`{"handler":"misdirected"}`, `{"handler":"subroute","routes":[{"match":[{"host":["n.d1.test"]}]}]}`}, handlers...)
	apps := `{` + testcaddy.TLSApp(t, `{}`,
		[]string{"a.d1.test", "b.d1.test", "m.d1.test", "o.d1.test", "p.d1.test"},
		[]string{"*.w.d1.test"},
		[]string{"q.d1.test"},
	) + `,"http":{"servers":{"srv0":{` + testcaddy.NoRedirects + `,"strict_sni_host":false,
		"tls_connection_policies":[
			{"match":{"sni":["m.d1.test"]},"client_authentication":{"mode":"require"}},
			{"match":{"sni":["v.d1.test"]},"client_authentication":{"mode":"require_and_verify"}},
			{"match":{"sni":["r.d1.test"]},"client_authentication":{"mode":"request"}},
			{"match":{"sni":["p.d1.test"]},"alpn":["http/1.1"]},
			{"match":{"sni":["q.d1.test"]},"certificate_selection":{"any_tag":["q.d1.test"]}},
			{"match":{"sni":["dropped.d1.test"]},"drop":true},
			{}],
		"routes":[
			{"match":[{"host":["a.d1.test","b.d1.test"]}],"terminal":true},
			{"match":[{"host":["*.w.d1.test"]}],"terminal":true},
			{"match":[{"host":["m.d1.test"]}],"terminal":true},
			{"match":[{"host":["p.d1.test"]}],"terminal":true},
			{"match":[{"host":["q.d1.test"]}],"terminal":true},
			{"match":[{"host":["s.d1.test"]},{"path":["/shared/*"]}]},
			{"handle":[` + strings.Join(handlers, ",") + `]}]}}}}`
	srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, apps, ""))
	return srv.Routes[len(srv.Routes)-1].Handlers[0].(*Handler).server
}

// someCert is a client certificate: that there is one is all that counts.
var someCert = []*x509.Certificate{new(x509.Certificate)}

// over is a request for host on a connection with that SNI, which shows a client
// certificate where it was asked for one.
func over(sni, host string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host, r.TLS = host, &tls.ConnectionState{ServerName: sni, HandshakeComplete: true}
	if strings.EqualFold(sni, "m.d1.test") {
		r.TLS.PeerCertificates = someCert
	}
	return r
}

func TestDecide(t *testing.T) {
	plain, proxied := sites(t), sites(t, `{"handler":"forward_proxy"}`)
	type asks struct {
		r      *http.Request
		want   Reason
		wanted string // the host decided on; the request's if empty
	}
	of := func(sni, host string, want Reason, changes ...func(*http.Request)) asks {
		r := over(sni, host)
		for _, change := range changes {
			change(r)
		}
		return asks{r: r, want: want}
	}
	named := func(host string, a asks) asks {
		a.wanted = host
		return a
	}
	from := func(addr string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = addr } }
	absolute := func(r *http.Request) { r.URL.Scheme, r.URL.Host = "https", r.Host }
	connect := func(r *http.Request) { r.Method, r.URL = http.MethodConnect, &url.URL{Host: r.Host} }
	opaque := func(r *http.Request) { r.URL = &url.URL{Scheme: "x", Opaque: "y"} }
	http10 := func(r *http.Request) { r.ProtoMinor = 0 }
	early := func(r *http.Request) { r.TLS.HandshakeComplete = false }
	unsigned := func(r *http.Request) { r.TLS.PeerCertificates = someCert }
	shows := func(r *http.Request) { unsigned(r); r.TLS.VerifiedChains = [][]*x509.Certificate{someCert} }
	old := func(r *http.Request) { r.TLS.PeerCertificates, r.TLS.VerifiedChains = nil, nil }
	hostField := func(fields ...string) func(*http.Request) {
		return func(r *http.Request) { r.ProtoMajor, r.Header["Host"] = 2, fields }
	}
	gateways := Handler{TrustedGatewaysRaw: static([]string{"10.0.0.0/8", "2001:db8::1", "::ffff:172.16.0.0/112"})}

	for _, test := range []struct {
		name     string
		handler  Handler
		proxied  bool // there is a forward proxy
		requests []asks
	}{
		{
			name: "step 1: no TLS, no SNI to judge by",
			requests: []asks{
				of("", "m.d1.test", TLSHidden, func(r *http.Request) { r.TLS = nil }),
				of("", "", TLSHidden, func(r *http.Request) { r.TLS = nil }),
			},
		},
		{
			// Checklist: M3.
			name:    "step 2: a forward proxy's requests",
			proxied: true,
			requests: []asks{
				named("elsewhere.test", of("a.d1.test", "elsewhere.test:443", ForwardProxy, connect)),
				of("", "elsewhere.test", ForwardProxy, absolute),
				of("invalid:443", "elsewhere.test", ForwardProxy, absolute),
				of("a.d1.test", "a.d1.test", SameHost, absolute),
				of("a.d1.test", "b.d1.test", OtherHost, absolute),
				of("a.d1.test", "x.w.d1.test", OtherHost, connect),
				of("a.d1.test", "n.d1.test", OtherHost, absolute),
				of("a.d1.test", "m.d1.test", NoClientCert, absolute),
				of("a.d1.test", "r.d1.test", OtherHost, absolute),
				of("a.d1.test", "s.d1.test", OtherHost, absolute),
				of("a.d1.test", "dropped.d1.test", NoClientCert, absolute),
				of("a.d1.test", "elsewhere.test", OtherHost, opaque),
				of("a.d1.test", "elsewhere.test", OtherHost),
				of("a.d1.test", "m.d1.test.", OddHost, absolute),
				of("a.d1.test", "", EmptyHost, opaque),
				of("a.d1.test", "a b", InvalidHost, absolute),
			},
		},
		{
			// Checklist: M26.
			name: "step 2: the form of a request makes no forward proxy",
			requests: []asks{
				named("elsewhere.test", of("a.d1.test", "elsewhere.test:443", OtherHost, connect)),
				of("a.d1.test", "elsewhere.test", OtherHost, absolute),
				of("a.d1.test", "a.d1.test", SameHost, absolute),
			},
		},
		{
			name:    "step 3: trusted gateways, by the other end of the connection",
			handler: gateways,
			requests: []asks{
				of("a.d1.test", "p.d1.test", TrustedGateway, from("10.1.2.3:1")),
				of("a.d1.test", "p.d1.test", TrustedGateway, from("[::ffff:10.1.2.3]:1")),
				of("a.d1.test", "p.d1.test", TrustedGateway, from("[2001:db8::1]:1")),
				of("a.d1.test", "p.d1.test", TrustedGateway, from("[2001:db8::1%eth0]:1")),
				of("a.d1.test", "p.d1.test", TrustedGateway, from("172.16.9.9:1")),
				of("invalid:443", "p.d1.test", TrustedGateway, from("10.1.2.3:1")),
				of("", "p.d1.test", TrustedGateway, from("10.1.2.3:1")),
				of("m.d1.test", "a.d1.test", TrustedGateway, from("10.1.2.3:1")),
				of("a.d1.test", "p.d1.test", OtherHost, from("11.1.2.3:1")),
				of("a.d1.test", "p.d1.test", OtherHost, from("@")),
				of("a.d1.test", "p.d1.test", OtherHost, from("10.1.2.3")),
				of("a.d1.test", "p.d1.test", OtherHost, from("")),
			},
		},
		{
			// Checklist: M24.
			name:    "step 3: never by an address that nobody has validated",
			handler: gateways,
			requests: []asks{
				of("a.d1.test", "p.d1.test", OtherHost, from("10.1.2.3:1"), early),
				of("a.d1.test", "a.d1.test", SameHost, from("10.1.2.3:1"), early),
			},
		},
		{
			name:    "step 3: a gateway is not trusted around client certificates",
			handler: gateways,
			requests: []asks{
				of("a.d1.test", "m.d1.test", NoClientCert, from("10.1.2.3:1")),
				of("a.d1.test", "m.d1.test", OtherHost, from("10.1.2.3:1"), shows),
				of("a.d1.test", "r.d1.test", OtherHost, from("10.1.2.3:1")),
				of("invalid:443", "r.d1.test", OtherHost, from("10.1.2.3:1")),
				of("m.d1.test", "m.d1.test", NoClientCert, from("10.1.2.3:1"), old),
				of("a.d1.test", "dropped.d1.test", NoClientCert, from("10.1.2.3:1")),
				of("a.d1.test", "a b", InvalidHost, from("10.1.2.3:1")),
				of("a.d1.test", "m.d1.test.", OddHost, from("10.1.2.3:1")),
			},
		},
		{
			// Checklist: M8.
			name: "step 4: what no other connection would help",
			requests: []asks{
				of("a.d1.test", "", EmptyHost),
				of("a.d1.test", "a b", InvalidHost),
				of("a.d1.test", "*.w.d1.test", InvalidHost),
				of("", "a b", InvalidHost),
				of("a.d1.test", "a.d1.test", TwoHosts, hostField("b.d1.test")),
				of("a.d1.test", "b.d1.test", TwoHosts, hostField("a.d1.test")),
				of("a.d1.test", "a.d1.test", TwoHosts, hostField("a.d1.test", "b.d1.test")),
				of("a.d1.test", "a.d1.test", TwoHosts, hostField("a b")),
				of("a.d1.test", "a.d1.test", TwoHosts, hostField("")),
				of("a.d1.test", "a.d1.test", SameHost, hostField("A.D1.test:443")),
			},
		},
		{
			// Checklist: M11.
			name: "step 4: HTTP/1.0 without Host, where nothing depends on a name",
			requests: []asks{
				of("unnamed.test", "", NoHost, http10),
				of("a.d1.test", "", NoHost, http10),
				of("", "", NoSNI, http10),
				of("m.d1.test", "", EmptyHost, http10),
				of("r.d1.test", "", EmptyHost, http10),
				of("p.d1.test", "", EmptyHost, http10),
				of("q.d1.test", "", EmptyHost, http10),
				of("dropped.d1.test", "", EmptyHost, http10),
				of("invalid:443", "", EmptyHost, http10),
				of("a.d1.test", "b.d1.test", OtherHost, http10),
			},
		},
		{
			name: "step 4: a spelling that Caddy routes to another site", // Checklist: M12.
			requests: []asks{
				of("a.d1.test", "a.d1.test.", OddHost),
				of("a.d1.test", "A.d1.test.:443", OddHost),
				of("a.d1.test", "m.d1.test.", OddHost),
				of("", "a.d1.test.", OddHost),
			},
		},
		{
			// Checklist: M28.
			name:    "step 5: no client certificate, whatever later steps say",
			handler: Handler{MissingSNI: MissingSNIAccept, Share: [][]string{{"a.d1.test", "m.d1.test"}}},
			requests: []asks{
				of("m.d1.test", "m.d1.test", NoClientCert, old),
				of("m.d1.test", "m.d1.test", SameHost, unsigned),
				of("v.d1.test", "v.d1.test", NoClientCert, unsigned),
				of("v.d1.test", "v.d1.test", SameHost, shows),
				of("m.d1.test", "v.d1.test", NoClientCert, unsigned),
				of("a.d1.test", "m.d1.test", NoClientCert),
				of("", "m.d1.test", NoClientCert),
				of("", "dropped.d1.test", NoClientCert),
				of("m.d1.test", "m.d1.test", SameHost),
				of("a.d1.test", "m.d1.test", Shared, shows),
				of("r.d1.test", "r.d1.test", SameHost),
				of("", "r.d1.test", NoSNI),
			},
		},
		{
			// Checklist: M14.
			name: "step 6: no SNI, same_policy",
			requests: []asks{
				of("", "a.d1.test", NoSNI),
				of("", "unnamed.test", NoSNI),
				of("", "127.0.0.1", NoSNI),
				of("", "q.d1.test", NoSNI), // certificate selection aside
				of("", "p.d1.test", NoSNIPolicy),
				of("", "r.d1.test", NoSNIPolicy),
				of("", "m.d1.test", NoClientCert),
			},
		},
		{
			// Checklist: M14.
			name:    "step 6: no SNI, accept",
			handler: Handler{MissingSNI: MissingSNIAccept},
			requests: []asks{
				of("", "p.d1.test", NoSNI),
				of("", "a b", InvalidHost),
				of("a.d1.test", "b.d1.test", OtherHost),
			},
		},
		{
			// Checklist: M14.
			name:    "step 6: no SNI, reject",
			handler: Handler{MissingSNI: MissingSNIReject},
			requests: []asks{
				of("", "a.d1.test", NoSNIRefused),
				of("", "127.0.0.1", NoSNIRefused),
				of("", "elsewhere.test", NoSNIRefused, absolute),
				of("", "", NoSNIRefused, http10),
				of("a.d1.test", "a.d1.test", SameHost),
			},
		},
		{
			// Checklist: M12, M13.
			name: "step 7: the host is the SNI, whatever its spelling and port",
			requests: []asks{
				of("a.d1.test", "a.d1.test", SameHost),
				of("A.d1.TEST", "a.d1.test", SameHost),
				named("a.d1.test", of("a.d1.test", "A.D1.test", SameHost)),
				named("a.d1.test", of("a.d1.test", "a.d1.test:443", SameHost)),
				named("a.d1.test", of("a.d1.test", "a.d1.test:0443", SameHost)),
				named("a.d1.test", of("a.d1.test", "a.d1.test:8443", SameHost)),
				named("unnamed.test", of("unnamed.test", "unnamed.test.:443", SameHost)),
				of("m.d1.test", "m.d1.test", SameHost),
			},
		},
		{
			name: "an SNI that is none equals no host: it selected no policy for it",
			requests: []asks{
				of("a.d1.test:443", "a.d1.test", OtherHost),
				of(" m.d1.test", "m.d1.test", OtherHost, shows),
				of("m.d1.test.", "m.d1.test", OtherHost, shows),
				of("m.d1.te\u017ft", "m.d1.test", OtherHost, shows),
				of(" m.d1.test", "m.d1.test", NoClientCert),
				of("*.w.d1.test", "x.w.d1.test", OtherHost),
			},
		},
		{
			name:    "step 8: share",
			handler: Handler{Share: [][]string{{"a.d1.test", "R.d1.test."}, {"b.d1.test", "q.d1.test", "bücher.test"}}},
			requests: []asks{
				of("a.d1.test", "r.d1.test", Shared),
				of("r.d1.test", "a.d1.test", Shared),
				of("b.d1.test", "xn--bcher-kva.test", Shared),
				of("a.d1.test", "b.d1.test", OtherHost),
				of("q.d1.test", "r.d1.test", OtherHost),
				of("", "r.d1.test", NoSNIPolicy),
				of(" a.d1.test", "r.d1.test", OtherHost),
				of("x.test", "y.test", OtherHost),
			},
		},
		{
			// Checklist: M1.
			name: "step 9: scope sni",
			requests: []asks{
				of("a.d1.test", "b.d1.test", OtherHost),
				of("a.d1.test", "o.d1.test", OtherHost),
				of("a.d1.test", "127.0.0.1", OtherHost),
				of("a.d1.test", "r.d1.test", OtherHost),
			},
		},
		{
			name:    "step 9: scope site",
			handler: Handler{Scope: ScopeSite},
			requests: []asks{
				of("a.d1.test", "b.d1.test", SameSite),
				of("x.w.d1.test", "y.w.d1.test", SameSite),
				of("unnamed.test", "other.test", SameSite), // both the catch-all's
				of("a.d1.test", "x.w.d1.test", OtherSite),
				of("a.d1.test", "unnamed.test", OtherSite),
				of("a.d1.test", "m.d1.test", OtherSite, shows),
				of("x.w.d1.test", "y.x.w.d1.test", OtherSite),
				of("a.d1.test:443", "b.d1.test", OtherHost),
			},
		},
		{
			// Checklist: M1, M17.
			name:    "step 9: scope certificate",
			handler: Handler{Scope: ScopeCertificate},
			requests: []asks{
				of("a.d1.test", "b.d1.test", Covered),
				of("a.d1.test", "o.d1.test", Covered), // the catch-all's
				of("a.d1.test", "unnamed.test", NotCovered),
				of("a.d1.test", "m.d1.test", OtherPolicy, shows),
				of("a.d1.test", "p.d1.test", OtherPolicy),
				of("m.d1.test", "a.d1.test", OtherPolicy),
				of("x.w.d1.test", "y.w.d1.test", Covered),
				of("x.w.d1.test", "w.d1.test", NotCovered),
				of("x.w.d1.test", "z.y.w.d1.test", NotCovered),
				of("q.d1.test", "a.d1.test", NotCovered),
				of("a.d1.test:443", "b.d1.test", OtherHost),
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			gate := test.handler.compiled(t)
			server := plain
			if test.proxied {
				server = proxied
			}
			s := server.Snapshot()
			for _, asks := range test.requests {
				asked := read(s, server, asks.r)
				got, gotHost := gate.decide(s, asked), asked.decidedOn()
				wanted := cmp.Or(asks.wanted, asks.r.Host)
				if got != asks.want || gotHost != wanted {
					t.Errorf("%s %s %s, host %q, SNI %q from %s: %v for host %q, want %v for %q", asks.r.Method, asks.r.URL, asks.r.Proto,
						asks.r.Host, asked.sni.sent, asks.r.RemoteAddr, got, gotHost, asks.want, wanted)
				}
				for i, step := range steps {
					if found := step.judge(&gate, s, asked); i <= stepOf(got) && found != undecided && !slices.Contains(step.finds, found) {
						t.Errorf("step %d finds %v, and its list has not", i+1, found)
					}
				}
			}
		})
	}
}

// compiled is the gate of a handler with a static list of gateways at most.
func (h Handler) compiled(t testing.TB) gate {
	t.Helper()
	gate, err := h.compile()
	if err != nil {
		t.Fatal(err)
	}
	if len(h.TrustedGatewaysRaw) > 0 {
		source := new(caddyhttp.StaticIPRange)
		if err := json.Unmarshal(h.TrustedGatewaysRaw, source); err != nil {
			t.Fatal(err)
		}
		if err := source.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		gate.gateways = source
	}
	return gate
}

// stepOf returns the step that finds a reason.
func stepOf(r Reason) int {
	return slices.IndexFunc(steps[:], func(s step) bool { return slices.Contains(s.finds, r) })
}

// Reasons are a closed list: each has a text, an outcome to be counted as, a
// status that fits it, and one step that finds it.
func TestReasons(t *testing.T) {
	statuses := map[outcome]int{misdirected: 421, badHost: 400}
	seen := make(map[string]Reason)
	for r := undecided + 1; r < reasonCount; r++ {
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
		found := 0
		for _, step := range steps {
			found += len(step.finds) - len(slices.DeleteFunc(slices.Clone(step.finds), func(f Reason) bool { return f == r }))
		}
		if found != 1 {
			t.Errorf("reason %v is found by %d steps, want one", r, found)
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
		{"scheme in share", Handler{Share: [][]string{{"https://a.test/", "b.test"}}}, "reading share name 'https://a.test/': must be an exact host name, without 'https://': write 'a.test'"},
		{"alt_svc", Handler{AltSvc: "clear"}, "reading alt_svc 'clear': must be auto or keep"},
		{"CIDR", Handler{TrustedGatewaysRaw: static([]string{"10.0.0.0/33"})}, "reading trusted_gateways '10.0.0.0/33': must be an IP address or a CIDR range: parsing CIDR expression: '10.0.0.0/33': netip.ParsePrefix(\"10.0.0.0/33\"): prefix length out of range"},
		{"no ranges", Handler{TrustedGatewaysRaw: static(nil)}, `reading trusted_gateways '{"source":"static"}': must have at least one range`},
		{"gateways as they were listed before", Handler{TrustedGatewaysRaw: json.RawMessage(`["10.0.0.0/8","2001:db8::/32"]`)}, `reading trusted_gateways '["10.0.0.0/8","2001:db8::/32"]': must be an object that names an IP source: write {"ranges":["10.0.0.0/8","2001:db8::/32"],"source":"static"}`},
		{"gateways without source", Handler{TrustedGatewaysRaw: json.RawMessage(`{"ranges":["10.0.0.0/8"]}`)}, `reading trusted_gateways '{"ranges":["10.0.0.0/8"]}': must be an object that names an IP source, such as {"ranges":["10.0.0.0/8"],"source":"static"}`},
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
	server, list := decisions(t)
	s := server.Snapshot()
	for _, test := range list {
		if n := testing.AllocsPerRun(100, func() { test.gate.decide(s, read(s, server, test.r)) }); n != 0 {
			t.Errorf("%s: %v allocations", test.name, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	server, list := decisions(b)
	s := server.Snapshot()
	for _, test := range list {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				test.gate.decide(s, read(s, server, test.r))
			}
		})
	}
}

type decision struct {
	name string
	gate gate
	r    *http.Request
}

// decisions is one request for each way through the decision.
func decisions(t testing.TB) (server *authority.Server, list []decision) {
	server = sites(t, `{"handler":"forward_proxy"}`)
	s := server.Snapshot()
	add := func(want Reason, h Handler, r *http.Request) {
		gate := h.compiled(t)
		if got := gate.decide(s, read(s, server, r)); got != want {
			t.Fatalf("%s %s, SNI %q: %v, want %v", r.Method, r.Host, r.TLS.ServerName, got, want)
		}
		list = append(list, decision{fmt.Sprint(want), gate, r})
	}
	a, b := "a.d1.test", "b.d1.test:443"
	proxy := over(a, "elsewhere.test")
	proxy.URL.Host = proxy.Host
	add(ForwardProxy, Handler{}, proxy)
	fromGateway := over(a, b)
	fromGateway.RemoteAddr = "10.1.2.3:40000"
	add(TrustedGateway, Handler{TrustedGatewaysRaw: static([]string{"10.0.0.0/8"})}, fromGateway)
	add(EmptyHost, Handler{}, over(a, ""))
	add(InvalidHost, Handler{}, over(a, "a b"))
	two := over(a, a)
	two.ProtoMajor, two.Header["Host"] = 2, []string{b}
	add(TwoHosts, Handler{}, two)
	add(NoClientCert, Handler{}, over(a, "m.d1.test"))
	nobody := over(a, "")
	nobody.ProtoMinor = 0
	add(NoHost, Handler{}, nobody)
	add(NoSNI, Handler{}, over("", a))
	add(NoSNIPolicy, Handler{}, over("", "p.d1.test"))
	add(SameHost, Handler{}, over(a, a))
	add(Shared, Handler{Share: [][]string{{a, "b.d1.test"}}}, over(a, b))
	add(OtherHost, Handler{}, over(a, b))
	add(SameSite, Handler{Scope: ScopeSite}, over(a, b))
	add(OtherSite, Handler{Scope: ScopeSite}, over(a, "q.d1.test"))
	add(Covered, Handler{Scope: ScopeCertificate}, over(a, b))
	add(NotCovered, Handler{Scope: ScopeCertificate}, over(a, "q.d1.test"))
	add(OtherPolicy, Handler{Scope: ScopeCertificate}, over(a, "p.d1.test"))
	return server, list
}
