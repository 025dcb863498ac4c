// Package caddy helps the tests of the other packages: it loads a config
// into this process as Caddy does, short of starting it. No listener is opened;
// the servers are asked directly.
package caddy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what configs refer to

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

// NoRedirects are the settings of a server that listens for TLS alone and
// manages no certificates.
const NoRedirects = `"listen": ["127.0.0.1:8443"], "automatic_https": {"disable_redirects": true, "disable_certificates": true}`

// Config wraps apps, JSON text, in a config that keeps its state in a folder of
// the test and writes its logs to a file; "" discards them. Events are not logged: where
// they are, the first handshakes race with the start of Caddy's TLS app, if that starts
// after the HTTP app, and the race detector says so.
func Config(t testing.TB, apps, log string) *caddy.Config {
	t.Helper()
	writer := map[string]string{"output": "discard"}
	if log != "" {
		writer = map[string]string{"output": "file", "filename": log}
	}
	text, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"storage": map[string]any{"module": "file_system", "root": t.TempDir()},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{
			"level": "DEBUG", "writer": writer, "exclude": []string{"events"},
		}}},
		"apps": json.RawMessage(apps),
	})
	var cfg caddy.Config
	if err == nil {
		err = json.Unmarshal(text, &cfg)
	}
	if err != nil {
		t.Fatalf("test config: %v", err)
	}
	return &cfg
}

// Provision provisions apps, JSON text.
func Provision(t testing.TB, apps, log string) caddy.Context {
	t.Helper()
	ctx, err := caddy.ProvisionContext(Config(t, apps, log))
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

// HTTPServer returns the server named srv0.
func HTTPServer(t testing.TB, ctx caddy.Context) *caddyhttp.Server {
	t.Helper()
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	return app.(*caddyhttp.App).Servers["srv0"]
}

// Get asks a server for / as if over a TLS connection with that SNI. The client
// shows a certificate if it must.
func Get(srv *caddyhttp.Server, sni, host string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host, r.TLS = host, Connection(srv, sni)
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, r)
	return w
}

// Connection is the state of a TLS connection with that SNI, whose client showed a
// certificate if the server's policy requires one.
func Connection(srv *caddyhttp.Server, sni string) *tls.ConnectionState {
	state := &tls.ConnectionState{ServerName: sni, HandshakeComplete: true}
	if len(srv.TLSConnPolicies) == 0 {
		return state
	}
	hello := &tls.ClientHelloInfo{ServerName: sni, Conn: somebody{}}
	config, err := srv.TLSConnPolicies.TLSConfig(caddy.Context{}).GetConfigForClient(hello)
	if err == nil && config != nil && (config.ClientAuth == tls.RequireAnyClientCert || config.ClientAuth == tls.RequireAndVerifyClientCert) {
		state.PeerCertificates = []*x509.Certificate{new(x509.Certificate)}
		if config.ClientAuth == tls.RequireAndVerifyClientCert {
			state.VerifiedChains = [][]*x509.Certificate{state.PeerCertificates}
		}
	}
	return state
}

// somebody is a connection between two addresses that nobody has (RFC 5737), for
// matchers on them.
type somebody struct{ net.Conn }

func (somebody) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }
func (somebody) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1024} }

// TLSApp is the config of a tls app with one certificate for each list of names
// and addresses, tagged with the first of them. Certificates stay in Caddy's
// cache beyond a config, so tests must not share names.
func TLSApp(t testing.TB, automation string, certificates ...[]string) string {
	t.Helper()
	var load []map[string]any
	for _, names := range certificates {
		template := testcert.For(names...)
		template.Subject.CommonName = "common.test"
		made, err := testcert.Issue(nil, template)
		if err != nil {
			t.Fatal(err)
		}
		cert, key, err := testcert.PEM(made)
		if err != nil {
			t.Fatal(err)
		}
		load = append(load, map[string]any{"certificate": string(cert), "key": string(key), "tags": names[:1]})
	}
	text, err := json.Marshal(load)
	if err != nil {
		t.Fatal(err)
	}
	return `"tls":{"certificates":{"load_pem":` + string(text) + `},"automation":` + automation + `}`
}

// FreePort returns a port of 127.0.0.1 that nothing listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
