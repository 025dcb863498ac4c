package main

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/template"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-connreuse/connreuse/internal/neterr"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

//go:embed Caddyfile
var caddyfile []byte

// The addresses are those of the Caddyfile.
const (
	httpsAddr    = "127.0.0.1:8443"
	adminAddr    = "127.0.0.1:2019"
	upstreamAddr = "127.0.0.1:8081"
)

// upstreamKeepAlive is when the demo's upstream closes an idle connection.
const upstreamKeepAlive = 5 * time.Second

// demo runs Caddy with the embedded Caddyfile until it is interrupted. All
// state is in a folder that it removes again.
func demo(out io.Writer) (err error) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	for _, addr := range []string{httpsAddr, adminAddr, upstreamAddr} {
		if err := free(addr); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "connreuse-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} { // where Caddy keeps what is not in its storage
		if err := os.Setenv(name, dir); err != nil {
			return err
		}
	}

	stopUpstream, err := startUpstream()
	if err != nil {
		return err
	}
	defer stopUpstream()

	config, err := config(dir)
	if err != nil {
		return err
	}
	if err := caddy.Load(config, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, caddy.Stop()) }()
	authority := filepath.Join(dir, "pki", "authorities", "local")
	if err := writeClientCert(authority, filepath.Join(dir, "client.pem")); err != nil {
		return err
	}
	if err := waitForCertificate(filepath.Join(authority, "root.crt")); err != nil {
		return err
	}

	if err := welcome.Execute(out, map[string]any{
		"curl":      "curl -s --cacert " + filepath.Join(authority, "root.crt") + " --connect-to ::" + httpsAddr + ` -w ' (%{http_code})\n'`,
		"client":    filepath.Join(dir, "client.pem"),
		"https":     httpsAddr,
		"admin":     adminAddr,
		"upstream":  upstreamAddr,
		"keepalive": upstreamKeepAlive,
	}); err != nil {
		return err
	}
	<-interrupted
	fmt.Fprintln(out)
	return nil
}

var welcome = template.Must(template.New("").Parse(`Caddy with connreuse is running on https://{{.https}}, its admin API on http://{{.admin}},
and an upstream that closes idle connections after {{.keepalive}} on http://{{.upstream}}.
One wildcard certificate covers all sites. Try these in another terminal:

# 200: the shop, over a connection of its own
{{.curl}} https://shop.demo.localhost/

# 421: the shop, over a connection for the blog
{{.curl}} -H 'Host: shop.demo.localhost' https://blog.demo.localhost/

# 200: the blog, over a connection for the shop; its scope is certificate
{{.curl}} -H 'Host: blog.demo.localhost' https://shop.demo.localhost/

# 421: the vault asks for a client certificate, which a connection for the shop never showed
{{.curl}} -H 'Host: vault.demo.localhost' https://shop.demo.localhost/

# 200: the vault, with a client certificate
{{.curl}} --cert {{.client}} https://vault.demo.localhost/

# 200: how often each of these happened, what connections were told in ORIGIN frames, and the state of the upstream pool
curl -s -w ' (%{http_code})\n' http://{{.admin}}/metrics | grep -v _bucket | grep -E '^caddy_(misdirected|origin|upstreampool).* [1-9]|\(200\)'

# 200: what becomes of a request for the vault on a connection for the shop, rule by rule
curl -s -w ' (%{http_code})\n' 'http://{{.admin}}/connreuse/explain?sni=shop.demo.localhost&host=vault.demo.localhost'

All of this is shown on http://{{.admin}}/connreuse/ in a browser.
Refusals are logged here. Ctrl-C ends the demo.
`))

// free tells, in a sentence, if an address is taken.
func free(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if neterr.IsTaken(err) {
		return fmt.Errorf("another program listens on %s already: stop it and try again", addr)
	}
	if err != nil {
		return err
	}
	return ln.Close()
}

// config is the embedded Caddyfile with its state in dir.
func config(dir string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, err
	}
	var cfg map[string]any
	if err := json.Unmarshal(adapted, &cfg); err != nil {
		return nil, err
	}
	cfg["storage"] = map[string]string{"module": "file_system", "root": dir}
	return json.Marshal(cfg)
}

// startUpstream serves the shop.
func startUpstream() (stop func(), err error) {
	ln, err := net.Listen("tcp", upstreamAddr)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{
		IdleTimeout: upstreamKeepAlive,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "The shop, from an upstream that was asked for %s.", r.Host)
		}),
	}
	go func() { _ = srv.Serve(ln) }() // ends with stop
	return func() { _ = srv.Close() }, nil
}

// waitForCertificate waits until Caddy, which does that in the background, has
// the certificate.
func waitForCertificate(root string) error {
	pemText, err := os.ReadFile(root)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pemText)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := tls.Dial("tcp", httpsAddr, &tls.Config{RootCAs: roots, ServerName: "shop.demo.localhost"})
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for Caddy's certificate: %w", err)
		}
	}
}

// writeClientCert writes a client certificate with its key, issued by Caddy's
// internal CA, which the vault trusts.
func writeClientCert(authority, path string) error {
	ca, err := tls.LoadX509KeyPair(filepath.Join(authority, "root.crt"), filepath.Join(authority, "root.key"))
	if err != nil {
		return err
	}
	cert, err := testcert.Issue(&ca, x509.Certificate{
		Subject:     pkix.Name{CommonName: "demo client"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return err
	}
	return testcert.WritePEM(cert, path, path)
}
