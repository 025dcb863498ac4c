package misdirected

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// serve provisions a server with the handler in front of a response that shows
// the placeholders, and one for errors that does so too.
func serve(t testing.TB, handlers, log string) *caddyhttp.Server {
	t.Helper()
	const shown = `{http.misdirected.sni} {http.misdirected.host} {http.misdirected.reason}`
	return testcaddy.HTTPServer(t, testcaddy.Provision(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,"strict_sni_host":false,
		"tls_connection_policies":[{}],
		"routes":[{"handle":[`+handlers+`,{"handler":"static_response","body":"`+shown+`"}]}],
		"errors":{"routes":[{"handle":[{"handler":"static_response","status_code":599,"body":"error: `+shown+` {http.error.status_code}"}]}]}
	}}}}`, log))
}

const (
	refused421 = "421 Misdirected Request: this connection is not the right one for the host. Ask again on a new connection.\n"
	refused400 = "400 Bad Request: the host is missing, invalid or ambiguous.\n"
)

// The error routes of the server answer 599 if they are asked.
//
// Checklist: M25.
func TestHandler(t *testing.T) {
	for _, test := range []struct {
		name      string
		handlers  string
		sni, host string
		status    int
		body      string
		noStore   bool
	}{
		{"passes", `{"handler":"misdirected"}`, "A.test", "a.test:443", 200, "A.test a.test same_host", false},
		{"refuses", `{"handler":"misdirected"}`, "a.test", "B.test:443", 421, refused421, true}, // Checklist: M19.
		{"refuses for good", `{"handler":"misdirected"}`, "a.test", "b..test", 400, refused400, true},
		{"hands refusals to error routes", `{"handler":"misdirected","error_routes":true}`, "a.test", "B.test:443", 599, "error: a.test b.test other_host 421", true},
		{"reports only", `{"handler":"misdirected","report_only":true}`, "a.test", "b.test", 200, "a.test b.test other_host", false},
		{"reports only what would be refused for good", `{"handler":"misdirected","report_only":true}`, "a.test", "b..test", 200, "a.test b..test invalid_host", false},
		{"the second refuses", `{"handler":"misdirected","scope":"site"},{"handler":"misdirected","error_routes":true}`, "a.test", "b.test", 599, "error: a.test b.test other_host 421", true},
		{"the first refuses", `{"handler":"misdirected","error_routes":true},{"handler":"misdirected","scope":"site"}`, "a.test", "b.test", 599, "error: a.test b.test other_host 421", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := testcaddy.Get(serve(t, test.handlers, ""), test.sni, test.host)
			if w.Code != test.status || w.Body.String() != test.body {
				t.Errorf("status %d, body %q; want %d, %q", w.Code, w.Body, test.status, test.body)
			}
			if got := w.Header().Get("Cache-Control") == "no-store"; got != test.noStore {
				t.Errorf("Cache-Control: %q, no-store wanted: %t", w.Header().Get("Cache-Control"), test.noStore)
			}
		})
	}
}

// M20 RFC 7838 6: an alternative service would lead the client back here.
//
// Checklist: M20.
func TestRefusalHasNoAltSvc(t *testing.T) {
	srv := serve(t, `{"handler":"headers","response":{"set":{"Alt-Svc":["h3=\":443\""]}}},{"handler":"misdirected"}`, "")
	if w := testcaddy.Get(srv, "a.test", "a.test"); w.Header().Get("Alt-Svc") == "" {
		t.Fatal("the test sets no Alt-Svc")
	}
	if w := testcaddy.Get(srv, "a.test", "b.test"); w.Code != 421 || w.Header().Get("Alt-Svc") != "" {
		t.Errorf("status %d, Alt-Svc: %s; want 421 without", w.Code, w.Header().Get("Alt-Svc"))
	}
}

// What the decision looks at is read from the request that came.
func TestRead(t *testing.T) {
	server := sites(t)
	s := server.Snapshot()
	a, b := name{valid, "a.test", "a.test"}, name{valid, "B.test", "b.test"}
	shown := &tls.ConnectionState{ServerName: "B.test", PeerCertificates: someCert}
	for _, test := range []struct {
		name string
		r    http.Request
		want asked
	}{
		{"hidden TLS", http.Request{Host: "a.test", ProtoMajor: 1, ProtoMinor: 1}, asked{layer: hiddenTLS, host: name{sent: "a.test"}}},
		{"TLS", http.Request{Host: "a.test", ProtoMajor: 2}, asked{sni: b, host: a}},
		{"HTTP/1.0", http.Request{ProtoMajor: 1}, asked{sni: b, http10: true}},
		{"a Host that is none", http.Request{ProtoMajor: 2, Host: "a b"}, asked{sni: b, host: name{kind: invalid, sent: "a b"}}},
		{"an odd spelling", http.Request{ProtoMajor: 2, Host: "a.d1.test."}, asked{sni: b, host: name{valid, "a.d1.test.", "a.d1.test"}, odd: true}},
		{"Host next to :authority", http.Request{Host: "a.test", ProtoMajor: 2, Header: http.Header{"Host": {"b.test"}}}, asked{sni: b, host: a, two: true}},
		{"the same Host next to :authority", http.Request{Host: "a.test", ProtoMajor: 2, Header: http.Header{"Host": {"A.test:443"}}}, asked{sni: b, host: a}},
		{"CONNECT, HTTP/1.1", http.Request{Method: "CONNECT", Host: "a.test", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: "//a.test"}, asked{sni: b, host: a, forward: true}},
		{"CONNECT, HTTP/2", http.Request{Method: "CONNECT", Host: "a.test", Proto: "HTTP/2.0", ProtoMajor: 2, RequestURI: "//a.test"}, asked{sni: b, host: a, forward: true}},
		{"extended CONNECT, HTTP/2", http.Request{Method: "CONNECT", Host: "a.test", Proto: "HTTP/2.0", ProtoMajor: 2, RequestURI: "//a.test", Header: http.Header{":protocol": {"websocket"}}}, asked{sni: b, host: a}}, // Checklist: M21.
		{"extended CONNECT, HTTP/3", http.Request{Method: "CONNECT", Host: "a.test", Proto: "websocket", ProtoMajor: 3, RequestURI: "//a.test"}, asked{sni: b, host: a}},                                                 // Checklist: M21.
		{"absolute-form, HTTP/1.1", http.Request{Host: "a.test", ProtoMajor: 1, ProtoMinor: 1, RequestURI: "http://a.test/"}, asked{sni: b, host: a, forward: true}},
		{"opaque form, HTTP/1.1", http.Request{Host: "a.test", ProtoMajor: 1, ProtoMinor: 1, RequestURI: "x:y"}, asked{sni: b, host: a}},
		{"absolute-form is not for HTTP/2", http.Request{Host: "a.test", ProtoMajor: 2, RequestURI: "http://a.test/"}, asked{sni: b, host: a}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &test.r
			r.URL, _ = url.Parse(r.RequestURI)
			test.want.r = r
			if test.want.layer != hiddenTLS {
				r.TLS, test.want.shown = shown, authority.AnyCert
			}
			if got := read(s, server, r); got != test.want {
				t.Errorf("= %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	srv := serve(t, `{"handler":"misdirected"}`, "")
	value := func(protocol, outcome string) float64 {
		return testutil.ToFloat64(requests.WithLabelValues("srv0", protocol, outcome))
	}
	for _, test := range []struct {
		major             int
		sni, host         string
		protocol, outcome string
	}{
		{1, "a.test", "a.test", "h1", "direct"},
		{2, "a.test", "b.test", "h2", "misdirected"},
		{3, "a.test", "b..test", "h3", "bad_host"},
		{3, "", "b.test", "h3", "no_sni"},
	} {
		before := value(test.protocol, test.outcome)
		r := httptest.NewRequest("GET", "/", nil)
		r.Host, r.ProtoMajor, r.TLS = test.host, test.major, &tls.ConnectionState{ServerName: test.sni}
		srv.ServeHTTP(httptest.NewRecorder(), r)
		if got := value(test.protocol, test.outcome) - before; got != 1 {
			t.Errorf("SNI %q, host %q counted %v times as %s %s, want once", test.sni, test.host, got, test.protocol, test.outcome)
		}
	}
	// the closed list, from the start, so that a rate can be had of the first
	if n := testutil.CollectAndCount(requests); n != 3*9 {
		t.Errorf("%d series for one server, want 27", n)
	}
}

func TestLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	srv := serve(t, `{"handler":"misdirected"}`, log)
	testcaddy.Get(srv, "a.test", "a.test")
	testcaddy.Get(srv, "a.test", "B.test:443")
	file, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var lines []map[string]any
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["logger"] == "http.handlers.misdirected" {
			delete(line, "ts")
			lines = append(lines, line)
		}
	}
	want := map[string]any{
		"level": "debug", "logger": "http.handlers.misdirected", "msg": "misdirected request",
		"sni": "a.test", "host": "b.test", "remote_addr": "192.0.2.1:1234", "protocol": "h1",
		"reason": "other_host", "status": 421.0, "site": "catch-all (route 0)", "report_only": false,
	}
	if len(lines) != 1 || fmt.Sprint(lines[0]) != fmt.Sprint(want) {
		t.Errorf("log lines of one refusal: %v\nwant one: %v", lines, want)
	}
}

// TestProvisionErrors: bad configuration is refused at load.
func TestProvisionErrors(t *testing.T) {
	for _, test := range []struct{ handler, want string }{
		{`{"handler":"misdirected","scope":"host"}`, "reading scope 'host'"},
		{`{"handler":"misdirected","scopes":"sni"}`, "unknown field"},
		{`{"handler":"misdirected","trusted_gateways":["10.0.0.0/8"]}`, `write {"ranges":["10.0.0.0/8"],"source":"static"}`},
		{`{"handler":"misdirected","trusted_gateways":{"source":"none"}}`, `loading trusted_gateways '{"source":"none"}': `},
	} {
		_, err := caddy.ProvisionContext(testcaddy.Config(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,"routes":[{"handle":[`+test.handler+`]}]}}}}`, ""))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error = %v, want one with %q", test.handler, err, test.want)
		}
	}
}

// TestOwnNameIsNeverRefused compares, over random configurations and all pairs of names, what
// authority says with what a server does:
//
//   - a host that is advertised on a connection is accepted on it;
//   - a host that is accepted there is not answered 421, nor is the SNI itself;
//   - a host that has a guard and asks for client certificates is not reached
//     from an SNI with another rule (M15), unless a share group says so;
//   - however a host is spelled, and in whatever kind of request, the same site
//     answers or nobody does (M12);
//   - without host, nobody answers who has a name (M11).
//
// Checklist: M23.
func TestOwnNameIsNeverRefused(t *testing.T) {
	names := []string{"a.p1.test", "b.p1.test", "c.p1.test", "x.w.p1.test", "y.w.p1.test", "n.p1.test", "v.u.p1.test", "single"}
	rnd := testcaddy.NewRandom(5, names, []string{"*.p1.test", "*.w.p1.test", "*.*.p1.test", "*.*.*.*", "*.*", "*"})
	rnd.Looks = []string{
		`,"sni_regexp":{"pattern":"^[abxv]"}`, `,"not":[{"sni":["a.p1.test","*.w.p1.test",""]}]`, `,"remote_ip":{"ranges":["192.0.2.0/24"]}`,
		`,"remote_ip":{"ranges":["10.0.0.0/8"]}`, `,"local_ip":{"ranges":["192.0.2.1"]}`, `,"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]},"sni_regexp":{"pattern":"^b"}}]`,
	}
	pick, some, guard, blocks, patterns := rnd.Pick, rnd.Some, func() string { return rnd.Guard(`,"missing_sni":"accept"`) }, rnd.Blocks, rnd.Patterns
	not := func() string {
		return pick("", "", `,"not":[{"host":`+some(patterns, 2)+`}]`, `,"expression":"{http.request.host} != '`+pick(names...)+`'"`)
	}
	certificates := testcaddy.TLSApp(t, `{}`,
		[]string{"a.p1.test", "b.p1.test", "x.w.p1.test"},
		[]string{"b.p1.test", "c.p1.test"},
		[]string{"*.w.p1.test", "c.p1.test", "n.p1.test"},
		[]string{"*.p1.test"},
	)
	counts := make(map[string]int)
	rounds := needs.InLong(400, 100)
	for range rounds {
		var routes []string
		policies := rnd.Policies()
		guarded := rnd.IntN(2) == 0 // by every route
		for i := range rnd.IntN(5) {
			handlers := fmt.Sprintf(`{"handler":"static_response","body":"%d"}`, i)
			if guarded || rnd.IntN(2) == 0 {
				handlers = guard() + handlers
			}
			routes = append(routes, `{"match":[{"host":`+some(patterns, 3)+not()+`}],"terminal":true,"handle":[`+pick(
				handlers,
				`{"handler":"subroute","routes":[{"handle":[`+handlers+`]}]}`,
				blocks(handlers, guard()+fmt.Sprintf(`{"handler":"static_response","body":"others of %d"}`, i)))+`]}`)
		}
		rest := guard() + `{"handler":"static_response","body":"catch-all"}`
		routes = append(routes,
			`{"handle":[`+pick(guard()+`{"handler":"headers"}`, rest, blocks(guard()+`{"handler":"static_response","body":"inner"}`, rest))+`]}`,
			`{"handle":[`+rest+`]}`)
		strict := pick("true", "false", "false")
		config := `"strict_sni_host":` + strict + `,` + policies + `,"routes":[` + strings.Join(routes, ",") + `]`
		srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, `{`+certificates+`,"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,`+config+`}}}}`, ""))
		handlers := srv.Routes[len(srv.Routes)-1].Handlers
		s := handlers[0].(*Handler).server.Snapshot()
		answer := func(sni, text string) (status int, site string) {
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
			if err != nil {
				t.Fatalf("test request %q: %v", text, err)
			}
			r.TLS, r.RemoteAddr = testcaddy.Connection(srv, sni), "192.0.2.2:1024"
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}))
			w := httptest.NewRecorder()
			srv.ServeHTTP(w, r)
			counts[fmt.Sprintf("answered %d", w.Code)]++
			return w.Code, w.Body.String()
		}

		// Matchers that tell spellings of a host apart matter only where something keeps
		// connections for hosts apart.
		apart := s.DiscernsCase() || !strings.Contains(config, `"not":[{"host"`) && !strings.Contains(config, "expression")
		site := make(map[string]string) // by its own connection, and without any guard's leave
		for _, name := range append(names, "other.test") {
			_, site[name] = answer(name, "GET / HTTP/1.1\r\nHost: "+name+"\r\n\r\n")
		}
		for _, sni := range append(names, "other.test", "") {
			for _, host := range append(names, "other.test") {
				status, _ := answer(sni, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
				accepted, advertised := s.Accepted(sni, host), s.Advertised(authority.Listed, sni, host)
				if advertised && sni != host {
					counts["advertised"]++
				}
				if advertised && !accepted {
					t.Fatalf("SNI %q, host %s: advertised, but not accepted, in %s", sni, host, config)
				}
				if accepted && status != 200 {
					t.Fatalf("SNI %q, host %s: accepted, but answered %d, in %s", sni, host, status, config)
				}
				if sni == host && status != 200 {
					t.Fatalf("SNI %q: its own host is answered %d, in %s", sni, status, config)
				}
				if !guarded {
					continue
				}
				for _, text := range []string{
					"GET / HTTP/1.1\r\nHost: " + host,
					"GET / HTTP/1.1\r\nHost: " + strings.ToUpper(host) + ":443",
					"GET / HTTP/1.1\r\nHost: " + host + ".",
					"GET / HTTP/1.1\r\nHost: " + host + ".:0443",
					"GET / HTTP/1.0\r\nHost: " + host + ".",
					"GET https://" + host + "/ HTTP/1.1\r\nHost: " + names[0],
					"GET https://" + host + "./ HTTP/1.1\r\nHost: " + names[0],
					"CONNECT " + host + ":443 HTTP/1.1\r\nHost: " + names[0],
					"CONNECT " + host + ".:443 HTTP/1.1\r\nHost: " + names[0],
				} {
					status, got := answer(sni, text+"\r\n\r\n")
					if status == 200 && got != site[host] && apart {
						t.Fatalf("SNI %q, %q: answered by site %s, but %s is of %s, in %s", sni, text, got, host, site[host], config)
					}
					if status == 200 && len(testcaddy.Connection(srv, host).PeerCertificates) > 0 && len(testcaddy.Connection(srv, sni).PeerCertificates) == 0 {
						t.Fatalf("SNI %q, %q: reached on a connection without a client certificate, in %s", sni, text, config)
					}
					if wants := asks(srv, host); status == 200 && wants != tls.NoClientCert && wants != asks(srv, sni) &&
						!strings.Contains(config, "share") && !(sni == "" && wants == tls.RequestClientCert) { // missing_sni may accept it
						t.Fatalf("SNI %q, %q: reached without its client certificate, in %s", sni, text, config)
					}
				}
			}
			if status, got := answer(sni, "GET / HTTP/1.0\r\n\r\n"); guarded && status == 200 && got != "catch-all" {
				t.Fatalf("SNI %q, no host: answered by site %s, in %s", sni, got, config)
			}
		}
	}
	// the test means something only if all of this happened
	for _, what := range []string{"answered 200", "answered 421", "answered 400", "advertised"} {
		if counts[what] < rounds/4 {
			t.Errorf("%s: %d times, want more", what, counts[what])
		}
	}
	t.Log(counts)
}

// asks is what a server's TLS policy for a name asks clients for.
func asks(srv *caddyhttp.Server, name string) tls.ClientAuthType {
	config, err := srv.TLSConnPolicies.TLSConfig(caddy.Context{}).GetConfigForClient(&tls.ClientHelloInfo{ServerName: name, Conn: someConn{}})
	if err != nil {
		return tls.NoClientCert
	}
	return config.ClientAuth
}

// someConn is between the addresses of the requests in [TestOwnNameIsNeverRefused].
type someConn struct{ net.Conn }

func (someConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }
func (someConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1024} }

// BenchmarkHandler is what a request pays for the handler that Caddy does not
// charge for every handler. On a goroutine of its own, as each request of HTTP/2 and
// HTTP/3 has, that is also the stack that the handler makes grow.
func BenchmarkHandler(b *testing.B) {
	srv := serve(b, `{"handler":"misdirected"}`, "")
	handler := srv.Routes[0].Handlers[0].(*Handler)
	pass := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	nothing := middleware(func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
		return next.ServeHTTP(w, r)
	})
	for _, test := range []struct {
		name, host string
		handler    caddyhttp.MiddlewareHandler
	}{
		{"pass", "a.test", handler},
		{"refuse", "b.test", handler},
		{"nothing", "a.test", nothing},
	} {
		w := httptest.NewRecorder()
		plain := httptest.NewRequest("GET", "/", nil)
		plain.Host, plain.TLS = test.host, &tls.ConnectionState{ServerName: "a.test"}
		serve := func() {
			repl := caddy.NewReplacer()
			r := plain.WithContext(context.WithValue(plain.Context(), caddy.ReplacerCtxKey, repl))
			_ = test.handler.ServeHTTP(w, r, pass)
		}
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
		b.Run(test.name+", new goroutine", func(b *testing.B) {
			b.ReportAllocs()
			done := make(chan struct{})
			for b.Loop() {
				go func() {
					serve()
					done <- struct{}{}
				}()
				<-done
			}
		})
	}
}

type middleware func(http.ResponseWriter, *http.Request, caddyhttp.Handler) error

func (m middleware) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return m(w, r, next)
}
