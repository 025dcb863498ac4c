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
	for name, match := range map[string]string{
		"by name":       `{"sni":["vault.reload.test"]}`,
		"by expression": `{"sni_regexp":{"pattern":"^vault"}}`,
		"by address":    `{"sni":["vault.reload.test"],"remote_ip":{"ranges":["127.0.0.0/8"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			for range 10 {
				if reloadUnderAHandshake(t, match) {
					return
				}
			}
			t.Error("the old server took each of the connections")
		})
	}
}

// reloadUnderAHandshake lets a policy with that matcher require certificates while a
// client is about to connect. It returns whether the new server took the connection: the
// old one may as well, until it is down.
func reloadUnderAHandshake(t *testing.T, match string) bool {
	asking, released = make(chan struct{}), make(chan struct{})
	port := testcaddy.FreePort(t)
	routes := func(name string) string {
		return `"routes":[{"match":[{"host":["vault.reload.test"]}],"terminal":true,"handle":[{"handler":"misdirected"},` + witnessing(name) + `]}]`
	}
	run(t, `"tls":{"automation":{"policies":[{"subjects":["vault.reload.test"],"get_certificate":[{"via":"test_slow"}]}]}}`, port,
		`"tls_connection_policies":[{}],`+routes("old"))
	ready := make(chan wire)
	go func() { ready <- dial(t, "h3", net.IPv4(127, 0, 0, 1), port, clientTLS("vault.reload.test")) }()
	<-asking

	run(t, testcaddy.TLSApp(t, `{}`, []string{"vault.reload.test"}), port,
		`"tls_connection_policies":[{"match":`+match+`,"client_authentication":{"mode":"require"}},{}],`+routes("SECRET"))
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
	if latest := Recent()[0]; latest.Reason != "no_client_cert" || latest.Protocol != "h3" {
		t.Errorf("the latest refusal is %+v", latest)
	}

	config := clientTLS("vault.reload.test")
	cert, err := testcert.SelfSigned("client")
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{cert}
	if status, _, _, err := dial(t, "h3", nil, port, config).do("GET", "vault.reload.test", ""); err != nil || status != 200 {
		t.Errorf("a new connection with a certificate: %d (%v)", status, err)
	}
	witnessed()
	return true
}
