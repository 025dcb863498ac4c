package integration

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
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

				// In short, one way in so many: other ones each time.
				every, way := needs.InLong(1, 6), 0
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
								simple := what == "plain" && host == "m.x.test"
								if way++; way%every != 0 && !simple {
									continue
								}
								conn := dialers[protocol](t, c.addr, clientTLS(sni))
								got := conn.do(a)
								conn.close()
								if strings.Contains(got.body, "SECRET") {
									t.Errorf("%s, SNI %q, %s with %q: %v", protocol, sni, what, host, got)
								}
								if simple && got.status != 421 {
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
