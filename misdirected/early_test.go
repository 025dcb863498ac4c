package misdirected

import (
	"crypto/tls"
	"net/http/httptest"
	"testing"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// A site asks clients for a certificate, but for those of one network. Early data may
// name any address as its source, and TLS policies go by that.
//
// Checklist: M24.
func TestEarlyDataIsNotExemptFromCertificatesByItsAddress(t *testing.T) {
	srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,"strict_sni_host":false,
		"tls_connection_policies":[
			{"match":{"sni":["vault.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}},
			{"match":{"sni":["vault.test"]},"client_authentication":{"mode":"require"}},
			{}],
		"routes":[{"handle":[{"handler":"misdirected"}]}]}}}}`, ""))
	for _, test := range []struct {
		name, host string
		complete   bool
		status     int
	}{
		{"early data", "vault.test", false, 421},
		{"after the handshake", "vault.test", true, 200},
		{"early data for a site that asks nobody", "a.test", false, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", nil)
			r.Host, r.RemoteAddr = test.host, "10.1.2.3:1"
			r.TLS = &tls.ConnectionState{ServerName: test.host, HandshakeComplete: test.complete}
			w := httptest.NewRecorder()
			srv.ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("status %d, want %d", w.Code, test.status)
			}
		})
	}
}
