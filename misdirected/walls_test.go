package misdirected

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

// allBut is a server on which connections for all names but shop.wire.test require a
// client certificate. Its one site has something for all hosts but shop.wire.test, by
// that matcher.
func allBut(matcher string) string {
	return `"tls_connection_policies":[{"match":{"sni":["shop.wire.test"]}},{"client_authentication":{"mode":"require"}}],
		"routes":[{"handle":[{"handler":"misdirected"},{"handler":"map","source":"{http.request.host}","destinations":["{site}"],"mappings":[{"input":"shop.wire.test","outputs":["shop"]}],"defaults":["secret"]},
			{"handler":"subroute","routes":[{"match":[` + matcher + `],"terminal":true,"handle":[` + witnessing("SECRET") + `]},{"handle":[` + witnessing("shop") + `]}]}]}]`
}

// A matcher that says for which host something is not takes a host that is spelled in
// another way for another host. Where client certificates keep hosts apart, such a
// request gets 400.
//
// Checklist: M12, M15.
func TestSpellingLeadsAroundNoClientCertificate(t *testing.T) {
	for name, matcher := range map[string]string{
		"not host":        `{"not":[{"host":["shop.wire.test"]}]}`,
		"expression":      `{"expression":"{http.request.host} != 'shop.wire.test'"}`,
		"not expression":  `{"not":[{"expression":"{http.request.host} == 'shop.wire.test'"}]}`,
		"vars":            `{"not":[{"vars":{"{http.request.host}":["shop.wire.test"]}}]}`,
		"a mapped host":   `{"vars":{"{site}":["secret"]}}`,
		"not header Host": `{"not":[{"header":{"Host":["shop.wire.test","shop.wire.test:443"]}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			port := testcaddy.FreePort(t)
			run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, allBut(matcher))
			for _, protocol := range []string{"h1", "h2", "h3"} {
				for _, asked := range []struct{ sni, host string }{
					{"shop.wire.test", "shop.wire.test."}, {"shop.wire.test", "shop.wire.test.:443"}, {"shop.wire.test", "SHOP.wire.test."},
					{"shop.wire.test", "SHOP.wire.test"}, {"SHOP.wire.test", "SHOP.wire.test"}, {"shop.wire.test", "Shop.wire.test:443"},
				} {
					status, _, body, err := dial(t, protocol, nil, port, clientTLS(asked.sni)).do("GET", asked.host, "")
					if err != nil || body == "SECRET" || status != 400 && status != 200 {
						t.Errorf("%s, SNI %s, host %s: %d %s (%v)", protocol, asked.sni, asked.host, status, body, err)
					}
				}
				for _, host := range []string{"shop.wire.test", "shop.wire.test:443"} {
					if status, _, body, err := dial(t, protocol, nil, port, clientTLS("shop.wire.test")).do("GET", host, ""); err != nil || status != 200 || body != "shop" {
						t.Errorf("%s, host %s: %d %s (%v)", protocol, host, status, body, err)
					}
				}
			}
			witnessed()
		})
	}
}

// A TLS policy may ask some clients for a certificate only, or go by an expression for
// the name. Whoever would have to show a certificate on a connection of his own for the
// host must show it on any other.
//
// Checklist: M15.
func TestPoliciesThatLookAtMoreThanNamesAreKept(t *testing.T) {
	gate := `{"handler":"misdirected","missing_sni":"accept","share":[["shop.wire.test","vault.wire.test"]]}`
	routes := `"routes":[{"match":[{"host":["vault.wire.test"]}],"handle":[` + gate + `,` + witnessing("SECRET") + `]},{"handle":[` + gate + `,` + witnessing("shop") + `]}]`
	cert, err := testcert.SelfSigned("client")
	if err != nil {
		t.Fatal(err)
	}
	for name, match := range map[string]string{
		"sni_regexp":        `{"sni_regexp":{"pattern":"^vault[.]"}}`,
		"not sni":           `{"not":[{"sni":["shop.wire.test",""]}]}`,
		"remote_ip":         `{"sni":["vault.wire.test"],"remote_ip":{"not_ranges":["127.0.0.50"]}}`,
		"not remote_ip":     `{"sni":["vault.wire.test"],"not":[{"remote_ip":{"ranges":["127.0.0.50"]}}]}`,
		"local_ip":          `{"sni":["vault.wire.test"],"local_ip":{"ranges":["127.0.0.1"]}}`,
		"sni and an IP set": `{"sni":["vault.wire.test"],"local_ip":{"ranges":["127.0.0.0/8"]},"remote_ip":{"ranges":["127.0.0.0/8"],"not_ranges":["127.0.0.50"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			port := testcaddy.FreePort(t)
			run(t, testcaddy.TLSApp(t, `{}`, wireNames), port,
				`"tls_connection_policies":[{"match":`+match+`,"client_authentication":{"mode":"require"}},{"default_sni":"shop.wire.test"}],`+routes)
			anybody, exempt := net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 50)
			for _, protocol := range []string{"h1", "h2", "h3"} {
				ask := func(from net.IP, sni, host string, certificates ...tls.Certificate) string {
					t.Helper()
					config := clientTLS(sni)
					config.Certificates = certificates
					_, _, body, err := dial(t, protocol, from, port, config).do("GET", host, "")
					if err != nil {
						t.Fatal(err)
					}
					return cmp.Or(map[string]string{"SECRET": "vault", "shop": "shop"}[body], "refused")
				}
				for _, sni := range []string{"shop.wire.test", "", "VAULT.wire.test"} {
					if sni == "VAULT.wire.test" && name != "sni_regexp" {
						continue // such a connection shows a certificate
					}
					for _, host := range []string{"vault.wire.test", "VAULT.wire.test:443"} {
						if got := ask(anybody, sni, host); got != "refused" {
							t.Errorf("%s, SNI %q, host %s: %s", protocol, sni, host, got)
						}
					}
				}
				if got := ask(anybody, "vault.wire.test", "vault.wire.test", cert); got != "vault" {
					t.Errorf("%s with a certificate: %s", protocol, got)
				}
				if got := ask(anybody, "shop.wire.test", "shop.wire.test"); got != "shop" {
					t.Errorf("%s to the open site: %s", protocol, got)
				}
				want := map[string]string{"remote_ip": "vault", "not remote_ip": "vault", "sni and an IP set": "vault"}[name]
				if want == "" {
					continue
				}
				for _, sni := range []string{"vault.wire.test", "shop.wire.test", ""} {
					if got := ask(exempt, sni, "vault.wire.test"); got != want {
						t.Errorf("%s from an address that is not asked, SNI %q: %s, want %s", protocol, sni, got, want)
					}
				}
			}
			witnessed()
		})
	}
}

// clientCA makes a CA, and what a client authentication that trusts it says.
func clientCA(t *testing.T, name string) (ca tls.Certificate, trusted string) {
	t.Helper()
	template := testcert.For()
	template.Subject.CommonName, template.IsCA, template.BasicConstraintsValid = name, true, true
	template.KeyUsage = x509.KeyUsageCertSign
	ca, err := testcert.Issue(nil, template)
	if err != nil {
		t.Fatal(err)
	}
	return ca, `"ca":{"provider":"inline","trusted_ca_certs":["` + base64.StdEncoding.EncodeToString(ca.Certificate[0]) + `"]}`
}

// clientCert makes a client's certificate, which signs itself without an issuer.
func clientCert(t *testing.T, issuer *tls.Certificate) tls.Certificate {
	t.Helper()
	template := testcert.For("client")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, err := testcert.Issue(issuer, template)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A site may ask for certificates of a CA, or for some certificates alone. One that was
// shown for other demands opens it neither by share nor by missing_sni.
//
// Checklist: M15.
func TestCertificateForAnotherSiteOpensNone(t *testing.T) {
	staffCA, staffPool := clientCA(t, "staff")
	guestCA, guestPool := clientCA(t, "guests")
	staff, guest, stranger := clientCert(t, &staffCA), clientCert(t, &guestCA), clientCert(t, nil)
	cert, _, err := testcert.PEM(staff)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "staff.pem")
	if err := os.WriteFile(file, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	only := `"verifiers":[{"verifier":"leaf","leaf_certs_loaders":[{"loader":"file","files":["` + file + `"]}]}]`

	for _, test := range []struct {
		name           string
		shop, vault    string // client authentication
		guest          tls.Certificate
		staffGetsThere bool // over a connection for the shop, too
	}{
		{"another CA", `"mode":"require_and_verify",` + guestPool, `"mode":"require_and_verify",` + staffPool, guest, false},
		{"another CA, by default", guestPool, staffPool, guest, false},
		{"another CA, if a certificate is given", `"mode":"verify_if_given",` + guestPool, `"mode":"require_and_verify",` + staffPool, guest, false},
		{"another CA, where a certificate may be given", guestPool, `"mode":"verify_if_given",` + staffPool, guest, false},
		{"no CA, where a certificate may be given", `"mode":"request"`, `"mode":"verify_if_given",` + staffPool, stranger, false},
		{"some certificates alone", `"mode":"request"`, `"mode":"require",` + only, stranger, false},
		{"some certificates of a CA", `"mode":"require_and_verify",` + staffPool, staffPool + `,` + only, clientCert(t, &staffCA), false},
		{"the same CA, if a certificate is given", `"mode":"verify_if_given",` + staffPool, `"mode":"require_and_verify",` + staffPool, stranger, true},
		{"the same certificates", `"mode":"request",` + only, `"mode":"require",` + only, stranger, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			gate := `{"handler":"misdirected","missing_sni":"accept","share":[["shop.wire.test","vault.wire.test"]]}`
			site := func(host, name string) string {
				return `{"match":[{"host":["` + host + `"]}],"handle":[` + gate + `,` + witnessing(name) + `]}`
			}
			port := testcaddy.FreePort(t)
			run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, `"tls_connection_policies":[
				{"match":{"sni":["shop.wire.test",""]},"default_sni":"shop.wire.test","client_authentication":{`+test.shop+`}},
				{"match":{"sni":["vault.wire.test"]},"client_authentication":{`+test.vault+`}},
				{}],"routes":[`+site("shop.wire.test", "shop")+`,`+site("vault.wire.test", "SECRET")+`]`)
			ask := func(protocol, sni, host string, cert tls.Certificate) string {
				status, err := askOnce(t, protocol, port, sni, host, cert)
				if saw := witnessed(); len(saw) > 0 {
					return strings.Fields(saw[0])[0]
				}
				return fmt.Sprint(status, err)
			}
			for _, protocol := range []string{"h1", "h2", "h3"} {
				for _, sni := range []string{"shop.wire.test", ""} {
					if got := ask(protocol, sni, "vault.wire.test", test.guest); got == "SECRET" {
						t.Errorf("%s, SNI %q: the vault answers a guest", protocol, sni)
					}
					if got, want := ask(protocol, sni, "vault.wire.test", staff), test.staffGetsThere; (got == "SECRET") != want {
						t.Errorf("%s, SNI %q: to staff the vault says %s, want its answer: %t", protocol, sni, got, want)
					}
				}
				if got := ask(protocol, "vault.wire.test", "vault.wire.test", staff); got != "SECRET" {
					t.Errorf("%s: on its own connection the vault says %s to staff", protocol, got)
				}
			}
		})
	}
}

// A client certificate for another site is none for a host whose connections are dropped,
// or dropped from where the client is.
func TestDroppedHostIsReachedWithNoCertificate(t *testing.T) {
	gate := `{"handler":"misdirected","missing_sni":"accept","share":[["shop.wire.test","vault.wire.test"]]}`
	for name, drop := range map[string]string{
		"dropped":               `{"match":{"sni":["vault.wire.test"]},"drop":true}`,
		"dropped by address":    `{"match":{"sni":["vault.wire.test"],"remote_ip":{"ranges":["127.0.0.1"]}},"drop":true}`,
		"dropped by expression": `{"match":{"sni_regexp":{"pattern":"^vault"}},"drop":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			port := testcaddy.FreePort(t)
			run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, `"tls_connection_policies":[`+drop+`,{"default_sni":"shop.wire.test","client_authentication":{"mode":"require"}}],
				"routes":[{"match":[{"host":["shop.wire.test"]}],"terminal":true,"handle":[`+gate+`,`+witnessing("shop")+`]},{"handle":[`+gate+`,`+witnessing("SECRET")+`]}]`)
			cert := clientCert(t, nil)
			for _, protocol := range []string{"h1", "h2", "h3"} {
				for _, sni := range []string{"shop.wire.test", ""} {
					status, err := askOnce(t, protocol, port, sni, "vault.wire.test", cert)
					if saw := witnessed(); err != nil || status != 421 || len(saw) > 0 {
						t.Errorf("%s, SNI %q: %d (%v), seen by %q", protocol, sni, status, err, saw)
					}
				}
				status, err := askOnce(t, protocol, port, "shop.wire.test", "shop.wire.test", cert)
				if saw := witnessed(); err != nil || status != 200 {
					t.Errorf("%s to the shop: %d (%v), seen by %q", protocol, status, err, saw)
				}
			}
		})
	}
}
