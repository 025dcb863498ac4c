package misdirected

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

// slowManager is a certificate manager that holds a TLS handshake up until it is
// released: by then the policy of the connection has been chosen.
type slowManager struct{}

func init() { caddy.RegisterModule(slowManager{}) }

func (slowManager) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "tls.get_certificate.test_slow", New: func() caddy.Module { return new(slowManager) }}
}

var asking, released chan struct{}

func (slowManager) GetCertificate(context.Context, *tls.ClientHelloInfo) (*tls.Certificate, error) {
	asking <- struct{}{}
	<-released
	cert, err := testcert.SelfSigned("vault.reload.test")
	return &cert, err
}

// A reload hands the HTTP/3 listener over to the new server. A connection whose
// handshake is under way then has the TLS policy of the old configuration, and its
// requests meet the routes of the new one: a site that begins to require client
// certificates is not reached over it.
//
// Checklist: M28.
func TestConnectionOfAnOlderConfigReachesNoClientCertificateSite(t *testing.T) {
	const byName, require = `"match":{"sni":["vault.reload.test"]}`, `,"client_authentication":{"mode":"require"}`
	oldCA, oldTrust := clientCA(t, "old")
	newCA, newTrust := clientCA(t, "new")
	withOld, withNew := clientCert(t, &oldCA), clientCert(t, &newCA)
	for name, test := range map[string]reloaded{
		"by name":       {`{}`, `{` + byName + require + `}`, nil, withNew},
		"by expression": {`{}`, `{"match":{"sni_regexp":{"pattern":"^vault"}}` + require + `}`, nil, withNew},
		"by address":    {`{}`, `{"match":{"sni":["vault.reload.test"],"remote_ip":{"ranges":["127.0.0.0/8"]}}` + require + `}`, nil, withNew},
		"another CA":    {`{"client_authentication":{` + oldTrust + `}}`, `{` + byName + `,"client_authentication":{` + newTrust + `}}`, []tls.Certificate{withOld}, withNew},
		"another CA, if a certificate is given": {`{"client_authentication":{"mode":"verify_if_given",` + oldTrust + `}}`,
			`{` + byName + `,"client_authentication":{"mode":"verify_if_given",` + newTrust + `}}`, []tls.Certificate{withOld}, withNew},
		"any certificate before": {`{"client_authentication":{"mode":"request"}}`,
			`{` + byName + `,"client_authentication":{"mode":"verify_if_given",` + newTrust + `}}`, []tls.Certificate{withOld}, withNew},
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				if reloadUnderAHandshake(t, test) {
					return
				}
			}
			t.Error("the old server took each of the connections")
		})
	}
}

// A reloaded is a TLS policy that changes, with the certificates that a client shows which
// connects before, and one that opens the site afterwards.
type reloaded struct {
	before, after string
	old           []tls.Certificate
	cert          tls.Certificate
}

// reloadUnderAHandshake changes the policy while a client is about to connect. It returns
// whether the new server took the connection: the old one may as well, until it is down.
func reloadUnderAHandshake(t *testing.T, policy reloaded) bool {
	asking, released = make(chan struct{}), make(chan struct{})
	port := testcaddy.FreePort(t)
	routes := func(name string) string {
		return `"routes":[{"match":[{"host":["vault.reload.test"]}],"terminal":true,"handle":[{"handler":"misdirected"},` + witnessing(name) + `]}]`
	}
	run(t, `"tls":{"automation":{"policies":[{"subjects":["vault.reload.test"],"get_certificate":[{"via":"test_slow"}]}]}}`, port,
		`"tls_connection_policies":[`+policy.before+`],`+routes("old"))
	config := clientTLS("vault.reload.test")
	config.Certificates = policy.old
	ready := make(chan wire)
	go func() { ready <- dial(t, "h3", net.IPv4(127, 0, 0, 1), port, config) }()
	<-asking

	run(t, testcaddy.TLSApp(t, `{}`, []string{"vault.reload.test"}), port,
		`"tls_connection_policies":[`+policy.after+`,{}],`+routes("SECRET"))
	close(released)
	old := <-ready
	for range 2 {
		status, _, body, err := old.do("GET", "vault.reload.test", "")
		if body == "old" {
			witnessed()
			return false
		}
		if saw := witnessed(); err != nil || status != 421 || len(saw) > 0 {
			t.Errorf("a connection of the old configuration: %d (%v), seen by %q", status, err, saw)
		}
	}
	if latest := Recent(); len(latest) == 0 || latest[0].Reason != "no_client_cert" || latest[0].Protocol != "h3" {
		t.Errorf("the refusals are %+v", latest)
	}

	config = clientTLS("vault.reload.test")
	config.Certificates = []tls.Certificate{policy.cert}
	if status, _, _, err := dial(t, "h3", nil, port, config).do("GET", "vault.reload.test", ""); err != nil || status != 200 {
		t.Errorf("a new connection with a certificate: %d (%v)", status, err)
	}
	witnessed()
	return true
}
