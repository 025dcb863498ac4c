package integration

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"go/build"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

const strictOff = `servers {
		strict_sni_host insecure_off
	}
	default_sni o.y.test`

// sites are what the tests here ask for. One wildcard certificate covers
// *.x.test, another certificate o.y.test; m.x.test asks for a client
// certificate. gate is the block of every misdirected.
func sites(gate, backend string) string {
	const site = `
%s {
	misdirected {
		%s
	}
	%s
}
`
	text := ""
	for _, s := range [][2]string{
		{"*.x.test", `respond "wildcard"`},
		{"a.x.test", `respond "a"`},
		{"b.x.test", `respond "b"`},
		{"o.y.test", `respond "o"`},
		{"m.x.test", "respond \"SECRET\"\n\ttls {\n\t\tclient_auth {\n\t\t\tmode require_and_verify\n\t\t\ttrust_pool pki_root local\n\t\t}\n\t}"},
		{"post.x.test", "reverse_proxy " + cmp.Or(backend, "127.0.0.1:9")},
		{"https://", `respond "catch-all"`},
	} {
		text += fmt.Sprintf(site, s[0], gate, s[1])
	}
	return text
}

var siteNames = []string{"a.x.test", "o.y.test"}

// clientCert issues a client certificate by Caddy's internal CA.
func (c *caddy) clientCert() tls.Certificate {
	c.t.Helper()
	ca := filepath.Join(c.dir, "caddy", "pki", "authorities", "local", "root")
	issuer, err := tls.LoadX509KeyPair(ca+".crt", ca+".key")
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := testcert.Issue(&issuer, x509.Certificate{
		Subject:     pkix.Name{CommonName: "client"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// The first table holds what is the same in all three protocols (M18).
//
// Checklist: M18.
func TestProtocolsAreJudgedAlike(t *testing.T) {
	type pair struct {
		sni, host string
		want      string // status and body
	}
	for _, test := range []struct {
		gate  string
		pairs []pair
	}{
		{"scope sni", []pair{
			// Outside the certificate, or of no site. Checklist: M1, M2.
			{"a.x.test", "o.y.test", "421"},
			{"o.y.test", "a.x.test", "421"},
			{"a.x.test", "unknown.test", "421"},
			{"a.x.test", "b.x.test", "421"},
			{"a.x.test", "c.x.test", "421"},
			// One host, whatever its spelling and port. Checklist: M12, M13.
			{"a.x.test", "a.x.test", "200 a"},
			{"A.x.TEST", "a.x.test", "200 a"},
			{"a.x.test", "A.X.test", "200 a"},
			{"a.x.test", "a.x.test:443", "200 a"},
			{"a.x.test", "a.x.test:0443", "200 a"},
			{"a.x.test", "a.x.test:1", "200 a"},
			// Caddy's routing knows no trailing dot and would answer with another site
			{"a.x.test", "a.x.test.", "400"},
			{"a.x.test", "b.x.test.", "400"},
			// No SNI. Checklist: M14.
			{"", "a.x.test", "200 a"},
			{"", "o.y.test", "200 o"},
			{"", "m.x.test", "421"},
			{"", "127.0.0.1", "200 catch-all"},
			// Checklist: M11.
			{"a.x.test", "", "400"},
		}},
		{"scope certificate", []pair{
			{"a.x.test", "o.y.test", "421"},
			{"a.x.test", "unknown.test", "421"},
			{"a.x.test", "b.x.test", "200 b"},
			// A wildcard is one whole left-most label. Checklist: M17.
			{"a.x.test", "c.x.test", "200 wildcard"},
			{"a.x.test", "x.test", "421"},
			{"a.x.test", "d.c.x.test", "421"},
			{"a.x.test", "m.x.test", "421"},
		}},
		{"scope site", []pair{
			{"a.x.test", "b.x.test", "421"},
			{"c.x.test", "d.x.test", "200 wildcard"},
			{"c.x.test", "a.x.test", "421"},
			{"a.x.test", "m.x.test", "421"},
		}},
		{"share a.x.test o.y.test", []pair{
			{"a.x.test", "o.y.test", "200 o"},
			{"o.y.test", "A.x.test:443", "200 a"},
			{"a.x.test", "b.x.test", "421"},
		}},
		{"missing_sni reject", []pair{{"", "a.x.test", "421"}, {"", "127.0.0.1", "421"}, {"a.x.test", "a.x.test", "200 a"}}},
		{"missing_sni accept", []pair{{"", "m.x.test", "421"}, {"a.x.test", "m.x.test", "421"}}},
		{"trusted_gateways 127.0.0.0/8", []pair{{"a.x.test", "o.y.test", "200 o"}, {"a.x.test", "m.x.test", "421"}}},
		{"trusted_gateways 192.0.2.0/24", []pair{{"a.x.test", "o.y.test", "421"}}},
		{"report_only", []pair{{"a.x.test", "o.y.test", "200 o"}, {"a.x.test", "a.x.test", "200 a"}}},
	} {
		t.Run(test.gate, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, strictOff, sites(test.gate, ""), siteNames)
			for _, protocol := range protocols {
				for _, p := range test.pairs {
					if p.host == "" && protocol == "h3" {
						continue // quic-go's client sends no empty :authority
					}
					conn := dialers[protocol](t, c.addr, clientTLS(p.sni))
					// an X-Forwarded-For makes no trusted gateway of anybody
					got := conn.do(ask{authority: p.host, header: [][2]string{{"x-forwarded-for", "192.0.2.1"}}})
					conn.close()
					text := fmt.Sprint(got.status, " ", got.body)
					for _, refusal := range []string{" 421 Misdirected Request: ", " 400 Bad Request: "} {
						text, _, _ = strings.Cut(text, refusal)
					}
					if strings.TrimSpace(text) != p.want {
						t.Errorf("%s, SNI %q, host %q: %v, want %s", protocol, p.sni, p.host, got, p.want)
					}
				}
			}
		})
	}
}

// M15 is the point of it all: there is no way to a site that asks for client
// certificates over a connection for another name.
//
// Checklist: M15.
func TestClientCertificateSites(t *testing.T) {
	for _, scope := range []string{"sni", "site", "certificate"} {
		for _, strict := range []string{"insecure_off", "on"} {
			t.Run(scope+" strict_sni_host "+strict, func(t *testing.T) {
				t.Parallel()
				c := startCaddy(t, "servers {\n\t\tstrict_sni_host "+strict+"\n\t}\n\tdefault_sni o.y.test", sites("scope "+scope, ""), siteNames)

				cert := c.clientCert()
				for _, protocol := range protocols {
					config := clientTLS("m.x.test")
					config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
					conn := dialers[protocol](t, c.addr, config)
					if got := conn.do(ask{authority: "m.x.test"}); got.status != 200 || got.body != "SECRET" {
						t.Fatalf("%s: its own connection, with a client certificate: %v, want 200", protocol, got)
					}
				}

				hosts := []string{"m.x.test", "M.X.Test", "m.x.test.", "m.x.test:443", "m.x.test:0443", "m.x.test.:443", "m.x.test:1", " m.x.test", "m.x.test ", "m%2ex.test", "m.x.test\t", "user@m.x.test"}
				for _, sni := range []string{"a.x.test", "c.x.test", "o.y.test", ""} {
					for _, protocol := range protocols {
						for _, host := range hosts {
							for what, a := range map[string]ask{
								"plain":                   {authority: host},
								"CONNECT":                 {method: "CONNECT", authority: host, target: host},
								"absolute-form, own host": {authority: cmp.Or(sni, "a.x.test"), target: "https://" + host + "/"},
								"absolute-form, its host": {authority: host, target: "https://a.x.test/"},
								"absolute-form, both":     {authority: host, target: "https://" + host + "/"},
								"Host next to it":         {authority: cmp.Or(sni, "a.x.test"), header: [][2]string{{"host", host}}},
								"it next to Host":         {authority: host, header: [][2]string{{"host", cmp.Or(sni, "a.x.test")}}},
								"forwarded":               {authority: cmp.Or(sni, "a.x.test"), header: [][2]string{{"x-forwarded-host", host}, {"forwarded", "host=" + host}}},
							} {
								if protocol == "h3" && (strings.Contains(what, "absolute") || strings.ContainsAny(host, " \t%@")) {
									continue // no such target there, and quic-go's client refuses such hosts
								}
								conn := dialers[protocol](t, c.addr, clientTLS(sni))
								got := conn.do(a)
								conn.close()
								if strings.Contains(got.body, "SECRET") {
									t.Errorf("%s, SNI %q, %s with %q: %v", protocol, sni, what, host, got)
								}
								if what == "plain" && host == "m.x.test" && got.status != 421 {
									t.Errorf("%s, SNI %q, host %q: %v, want 421", protocol, sni, host, got)
								}
							}
						}
					}
				}
			})
		}
	}
}

// anySession is a client session cache that offers every session to every name.
type anySession struct {
	mu   sync.Mutex
	last *tls.ClientSessionState
}

func (s *anySession) Get(string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.last != nil
}

func (s *anySession) Put(_ string, state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != nil {
		s.last = state
	}
}

// M16 RFC 8446 4.6.1: a session of one name resumed with another is judged by
// the name in the new hello; M15: it leads to no client-certificate site.
//
// Checklist: M16.
func TestResumedSessionIsJudgedByItsOwnName(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			sessions := new(anySession)
			config := func(sni string) *tls.Config {
				config := clientTLS(sni)
				config.ClientSessionCache = sessions
				return config
			}
			conn := dialers[protocol](t, c.addr, config("a.x.test"))
			if got := conn.do(ask{authority: "a.x.test"}); got.status != 200 {
				t.Fatalf("first connection: %v", got)
			}
			conn.close()

			conn = dialers[protocol](t, c.addr, config("b.x.test"))
			for _, step := range []struct {
				host string
				want int
			}{{"a.x.test", 421}, {"b.x.test", 200}, {"m.x.test", 421}} {
				if got := conn.do(ask{authority: step.host}); got.status != step.want {
					t.Errorf("session of a resumed for b, host %s: %v, want %d", step.host, got, step.want)
				}
			}
			if !conn.resumed() {
				t.Error("the session was not resumed, so this shows nothing")
			}
			conn.close()

			// to the mTLS site's own name: its policy has no tickets, and asks
			tcp, err := tls.Dial("tcp", c.addr, config("m.x.test"))
			if err == nil {
				_, err = tcp.Read(make([]byte, 1))
				if tcp.ConnectionState().DidResume {
					t.Error("a session was resumed for m.x.test")
				}
				tcp.Close()
			}
			if err == nil || err == io.EOF {
				t.Errorf("m.x.test let us in without a certificate: %v", err)
			}
		})
	}
}

// TestNoForwardProxy: where there is no forward proxy, a request of the form that
// one is asked by is judged like any other.
//
// Checklist: M3, M26.
func TestNoForwardProxy(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, protocol := range protocols {
		for _, host := range []string{"elsewhere.test:443", "m.x.test:443"} {
			conn := dialers[protocol](t, c.addr, clientTLS("a.x.test"))
			if got := conn.do(ask{method: "CONNECT", authority: host, target: host}); got.status != 421 {
				t.Errorf("%s: CONNECT %s: %v, want 421", protocol, host, got)
			}
			conn.close()
		}
	}
	conn := dialH1(t, c.addr, clientTLS("a.x.test"))
	if got := conn.do(ask{authority: "elsewhere.test", target: "http://elsewhere.test/"}); got.status != 421 {
		t.Errorf("absolute-form elsewhere: %v, want 421", got)
	}
	if got := conn.do(ask{authority: "elsewhere.test", target: "http://a.x.test/"}); got.status != 200 || got.body != "a" {
		t.Errorf("absolute-form of the connection's own host: %v, want its 200", got)
	}
}

// backend counts what reaches it.
type backend struct {
	mu   sync.Mutex
	seen []string
	addr string
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: ln.Addr().String()}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.seen = append(b.seen, r.Method+" "+r.URL.Path)
		b.mu.Unlock()
		if r.Header.Get("Upgrade") == "websocket" {
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			buf.Flush()
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", r.Method, len(body))
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return b
}

// take returns what was seen since the last call.
func (b *backend) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.seen
	b.seen = nil
	return seen
}

// TestRefusedPostReachesNoBackend: the client may repeat any method, since nothing of it was processed.
//
// Checklist: M4.
func TestRefusedPostReachesNoBackend(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, strictOff, sites("scope sni", b.addr), siteNames)
	for _, protocol := range protocols {
		for _, size := range []int{10, 1 << 20} {
			post := ask{method: "POST", authority: "post.x.test", target: "/order", body: strings.Repeat("x", size)}
			if protocol == "h2" && size > 16384 {
				continue // the client here sends a body as one frame
			}
			conn := dialers[protocol](t, c.addr, clientTLS("a.x.test"))
			if got := conn.do(post); got.status != 421 && !(size > 10 && got.reset != "") {
				t.Errorf("%s: %d bytes over the wrong connection: %v, want 421", protocol, size, got)
			}
			conn.close()
			if seen := b.take(); len(seen) != 0 {
				t.Errorf("%s: the backend saw %q", protocol, seen)
			}
			conn = dialers[protocol](t, c.addr, clientTLS("post.x.test"))
			if got := conn.do(post); got.body != fmt.Sprintf("POST %d", size) {
				t.Errorf("%s: %d bytes over the right connection: %v", protocol, size, got)
			}
			conn.close()
			if seen := b.take(); len(seen) != 1 {
				t.Errorf("%s: the backend saw %q, want one request", protocol, seen)
			}
		}
	}
}

// TestRefusalLeavesConnectionOpen: a refusal is about one request, not about its connection.
//
// Checklist: M5.
func TestRefusalLeavesConnectionOpen(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, protocol := range protocols {
		conn := dialers[protocol](t, c.addr, clientTLS("a.x.test"))
		for i, step := range []struct {
			host string
			want int
		}{{"a.x.test", 200}, {"b.x.test", 421}, {"a.x.test", 200}, {"a x", 400}, {"a.x.test", 200}} {
			if protocol == "h3" && step.want == 400 {
				continue // quic-go's client refuses to send it
			}
			got := conn.do(ask{authority: step.host})
			if protocol == "h1" && step.want == 400 {
				if got.status != 400 {
					t.Errorf("%s, request %d: %v, want 400", protocol, i, got)
				}
				break // net/http's own, which closes
			}
			if got.status != step.want && !(step.want == 400 && got.reset != "") {
				t.Errorf("%s, request %d: %v, want %d", protocol, i, got, step.want)
			}
		}
		if conn, ok := conn.(*h2); ok && conn.goAway {
			t.Error("h2: GOAWAY")
		}
	}
}

// TestRefusedBodyIsNoRequest: a body that was not read is no request.
//
// Checklist: M6.
func TestRefusedBodyIsNoRequest(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, strictOff, sites("scope sni", b.addr), siteNames)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: post.x.test\r\n\r\n"
	for name, text := range map[string]string{
		"length":     fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.x.test\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"chunked":    fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.x.test\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled),
		"large":      fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.x.test\r\nContent-Length: %d\r\n\r\n%s", 4<<20, strings.Repeat(smuggled, 4<<20/len(smuggled)+1)[:4<<20]),
		"unfinished": "POST / HTTP/1.1\r\nHost: a.x.test\r\nContent-Length: 1000\r\n\r\n" + smuggled,
	} {
		conn := dialH1(t, c.addr, clientTLS("post.x.test")).(*h1)
		go func() {
			_, _ = io.WriteString(conn.conn, text+"GET /next HTTP/1.1\r\nHost: post.x.test\r\nConnection: close\r\n\r\n")
		}()
		patience := 20 * time.Second
		if name == "unfinished" { // the connection stays open
			patience = 3 * time.Second
		}
		_ = conn.conn.SetReadDeadline(time.Now().Add(patience))
		got, _ := io.ReadAll(conn.reader)
		if name != "large" && name != "unfinished" && !strings.HasPrefix(string(got), "HTTP/1.1 421 ") {
			t.Errorf("%s: answer %.100q, want 421", name, got)
		}
		for _, seen := range b.take() {
			if seen != "GET /next" {
				t.Errorf("%s: the backend saw %q", name, seen)
			}
		}
		conn.close()
	}
}

// A Host that names another host than :authority makes the request malformed (RFC
// 9113 8.3.1). Before Go 1.27 net/http resets any that is not equal byte by byte;
// since then the request comes to the gate, which compares the hosts they name.
//
// Checklist: M7, M8.
func TestAuthorityBesideHost(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	reset := answer{reset: "PROTOCOL_ERROR"}
	ok := answer{status: 200, body: "a"}
	refused := answer{status: 400}
	for _, test := range []struct {
		authority, host string
		want, before127 answer
	}{
		{"b.x.test", "a.x.test", refused, reset},
		{"a.x.test", "b.x.test", refused, reset},
		{"a.x.test", "A.x.test", ok, reset},
		{"a.x.test", "A.x.test:443", ok, reset},
		{"a.x.test", "a.x.test", ok, ok},
		{"-", "a.x.test", ok, ok},
		{"-", "b.x.test", answer{status: 421}, answer{status: 421}},
	} {
		want := test.want
		if !slices.Contains(build.Default.ReleaseTags, "go1.27") {
			want = test.before127
		}
		conn := dialH2(t, c.addr, clientTLS("a.x.test"))
		got := conn.do(ask{authority: test.authority, header: [][2]string{{"host", test.host}}})
		if got.reset != want.reset || got.status != want.status || want.body != "" && got.body != want.body {
			t.Errorf("SNI a.x.test, :authority %s, Host %s: %v, want %v", test.authority, test.host, got, want)
		}
	}
}

// TestAbsoluteForm: absolute-form beats Host, in both directions.
//
// Checklist: M9.
func TestAbsoluteForm(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	conn := dialH1(t, c.addr, clientTLS("a.x.test"))
	if got := conn.do(ask{authority: "a.x.test", target: "https://b.x.test/"}); got.status != 421 {
		t.Errorf("target b, Host a: %v, want 421", got)
	}
	if got := conn.do(ask{authority: "b.x.test", target: "https://a.x.test/"}); got.body != "a" {
		t.Errorf("target a, Host b: %v, want 200", got)
	}
}

// TestMissingOrDoubleHost: what net/http says of Host in HTTP/1.x stays as it is, and a request
// without host never gets another site's content.
//
// Checklist: M10, M11.
func TestMissingOrDoubleHost(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, test := range []struct {
		sni, text string
		status    int
		body      string
	}{
		{"a.x.test", "GET / HTTP/1.1\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a.x.test\r\nHost: a.x.test\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a.x.test\r\nHost: b.x.test\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a..x.test\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.0\r\n\r\n", 200, "catch-all"},
		{"a.x.test", "GET / HTTP/1.0\r\nHost: a.x.test\r\n\r\n", 200, "a"},
		{"a.x.test", "GET / HTTP/1.0\r\nHost: b.x.test\r\n\r\n", 421, ""},
		{"", "GET / HTTP/1.0\r\n\r\n", 200, "catch-all"},
	} {
		conn := dialH1(t, c.addr, clientTLS(test.sni)).(*h1)
		got := conn.raw(test.text, "GET")
		if got.status != test.status || test.body != "" && got.body != test.body {
			t.Errorf("SNI %q, %q: %v, want %d %s", test.sni, test.text, got, test.status, test.body)
		}
	}
}

// TestRefusalFields: how a refusal looks, and what it does not do.
//
// Checklist: M19, M20, M22.
func TestRefusalFields(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", "")+`
errors.x.test {
	misdirected {
		error_routes
	}
	respond "ok"
	handle_errors {
		respond "sorry: {http.misdirected.sni} {http.misdirected.host} {http.misdirected.reason}" {err.status_code}
	}
}
`, siteNames)
	for _, protocol := range protocols {
		asked := 0
		config := clientTLS("a.x.test")
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked++
			return new(tls.Certificate), nil
		}
		conn := dialers[protocol](t, c.addr, config)
		if got := conn.do(ask{authority: "a.x.test"}); got.header.Get("Alt-Svc") == "" && protocol != "h3" {
			t.Errorf("%s: no Alt-Svc in a 200, so this test shows nothing", protocol)
		}
		for _, host := range []string{"b.x.test", "m.x.test", "errors.x.test"} {
			got := conn.do(ask{authority: host})
			if got.status != 421 || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Alt-Svc") != "" {
				t.Errorf("%s, %s: %v with Cache-Control %q, Alt-Svc %q", protocol, host, got, got.header.Get("Cache-Control"), got.header.Get("Alt-Svc"))
			}
			if host == "errors.x.test" && got.body != "sorry: a.x.test errors.x.test other_host" {
				t.Errorf("%s: handle_errors answered %v", protocol, got)
			}
		}
		if asked != 0 {
			t.Errorf("%s: a client certificate was asked for %d times", protocol, asked)
		}
	}
	var lines []map[string]any
	poll.Succeed(c.t, "a log line for each of 9 refusals", func() error {
		if lines = c.logged("misdirected request"); len(lines) != 9 {
			return fmt.Errorf("%d lines", len(lines))
		}
		return nil
	})
	for _, line := range lines {
		if line["sni"] != "a.x.test" || line["reason"] == "" || line["site"] != line["host"] || line["remote_addr"] == "" || line["level"] != "debug" {
			t.Errorf("log line %v", line)
		}
	}
}

// M21 RFC 8441: a WebSocket over HTTP/2 is judged by its :authority.
//
// Checklist: M21.
func TestExtendedConnect(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, strictOff, sites("scope sni", b.addr), siteNames, "GODEBUG=http2xconnect=1")
	websocket := func(host string) ask {
		return ask{method: "CONNECT", authority: host, target: "/chat", header: [][2]string{{":protocol", "websocket"}, {"sec-websocket-version", "13"}}}
	}
	for _, test := range []struct {
		sni  string
		want int
		seen int
	}{{"a.x.test", 421, 0}, {"post.x.test", 200, 1}} {
		conn := dialH2(t, c.addr, clientTLS(test.sni)).(*h2)
		if conn.do(ask{authority: test.sni, method: "HEAD"}); !conn.extendedConnect {
			t.Fatal("the server does not allow extended CONNECT")
		}
		b.take()
		if got := conn.do(websocket("post.x.test")); got.status != test.want {
			t.Errorf("WebSocket over a connection for %s: %v, want %d", test.sni, got, test.want)
		}
		if seen := b.take(); len(seen) != test.seen {
			t.Errorf("WebSocket over a connection for %s: the backend saw %q", test.sni, seen)
		}
	}
}

// What could let a request through to a client-certificate site is said at
// start, naming the sites.
func TestWarningsAtStart(t *testing.T) {
	for _, test := range []struct {
		name, options, gate string
		want                map[string]any // nil: no warning
	}{
		{"guarded", strictOff, "scope certificate", nil},
		{"share", strictOff, "share a.x.test m.x.test", map[string]any{"sites": "[a.x.test m.x.test]", "share": "[a.x.test m.x.test]"}},
		{"share within one policy", strictOff, "share a.x.test b.x.test", nil},
		{"report_only", strictOff, "report_only", map[string]any{"sites": "[m.x.test]", "option": "report_only"}},
		{"trusted_gateways", strictOff, "trusted_gateways private_ranges", nil},
		{"missing_sni accept", strictOff, "missing_sni accept", nil},
		{"strict_sni_host", "default_sni o.y.test", "scope sni", map[string]any{"msg": "strict_sni_host is on"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, test.options, sites(test.gate, ""), siteNames[:1])
			var warnings []map[string]any
			for _, line := range c.logged("") {
				// that of the shared certificate is not what this is about
				if line["logger"] == "connreuse" && line["level"] == "warn" && !strings.Contains(fmt.Sprint(line["msg"]), "origin listener wrapper") {
					warnings = append(warnings, line)
				}
			}
			if test.want == nil {
				if len(warnings) != 0 {
					t.Errorf("warnings: %v", warnings)
				}
				return
			}
			if len(warnings) != 1 {
				t.Fatalf("%d warnings, want 1: %v", len(warnings), warnings)
			}
			for key, want := range test.want {
				if got := fmt.Sprint(warnings[0][key]); !strings.Contains(got, fmt.Sprint(want)) {
					t.Errorf("%s is %s, want %v", key, got, want)
				}
			}
			if warnings[0]["server"] != "srv0" {
				t.Errorf("the warning does not name the server: %v", warnings[0])
			}
		})
	}
	t.Run("no guard", func(t *testing.T) {
		t.Parallel()
		text := strings.Replace(sites("scope sni", ""), "m.x.test {\n\tmisdirected {\n\t\tscope sni\n\t}", "m.x.test {", 1)
		c := startCaddy(t, strictOff, text, siteNames[:1])
		lines := c.logged("no misdirected handler runs")
		if len(lines) != 1 || fmt.Sprint(lines[0]["sites"]) != "[m.x.test]" {
			t.Errorf("warnings: %v, want one that names m.x.test", lines)
		}
	})
}
