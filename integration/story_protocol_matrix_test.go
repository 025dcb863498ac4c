package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// TestStoryProtocolMatrix runs example/protocol-matrix: each protocol of a client
// with each protocol of the upstream, Apache, through Caddy and through HAProxy.
func TestStoryProtocolMatrix(t *testing.T) {
	t.Parallel()
	const folder = "protocol-matrix"
	apache := needs.Program(t, "apache2", "apache2")
	haproxy := needs.Program(t, "haproxy", "haproxy")
	openssl := needs.Program(t, "openssl", "openssl")
	curl := needs.Program(t, "curl", "curl")

	dir := t.TempDir()
	cert := filepath.Join(dir, "cert.pem")
	if out, err := exec.Command(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
		"-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", cert, "-out", cert).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	port, tlsPort, httpPort, haPort, haTLSPort := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	env := []string{"DIR=" + dir, "APACHE_PORT=" + port, "APACHE_TLS_PORT=" + tlsPort, "HTTP_PORT=" + httpPort, "HAPROXY_PORT=" + haPort, "HAPROXY_TLS_PORT=" + haTLSPort}
	player{env: env, listen: []string{port, tlsPort}, args: []string{apache, "-D", "FOREGROUND",
		"-C", "KeepAliveTimeout 1", "-C", "Define PORT " + port, "-C", "Define TLS_PORT " + tlsPort, "-f", example(t, folder, "apache.conf")}}.start(t)
	player{env: env, listen: []string{haPort, haTLSPort}, args: []string{haproxy, "-db", "-f", example(t, folder, "haproxy.cfg")}}.start(t)
	c := startExample(t, folder, env...)
	c.certificates(c.addr, []string{"localhost"})

	// saw waits until Apache has logged a request, and returns what it saw.
	saw := func(t *testing.T, target string) (fields string) {
		t.Helper()
		poll.Succeed(t, "Apache to log "+target, func() error {
			text, err := os.ReadFile(filepath.Join(dir, "saw.log"))
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				line, whole := strings.CutSuffix(line, "\n") // or it is being written
				logged, rest, _ := strings.Cut(line, " ")
				if fields = rest; whole && logged == target {
					return nil
				}
			}
			return fmt.Errorf("there is only:\n%s", text)
		})
		return fields
	}
	// Which protocol Apache has to have seen, by the path.
	upstreams := []struct{ path, proto, saw string }{
		{"/h1", "HTTP/1.1", "HTTP/1.1 HTTP2=- Upgrade=-"},
		{"/h2c", "HTTP/2.0", "HTTP/2.0 HTTP2=on Upgrade=-"},
		{"/h2", "HTTP/2.0", "HTTP/2.0 HTTP2=on Upgrade=-"},
	}
	clients := []struct {
		name, scheme, proto string
		protocols           func(*http.Protocols)
	}{
		{"h1", "http", "HTTP/1.1", func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"h1 over TLS", "https", "HTTP/1.1", func(p *http.Protocols) { p.SetHTTP1(true) }},
		{"h2c", "http", "HTTP/2.0", func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }},
		{"h2", "https", "HTTP/2.0", func(p *http.Protocols) { p.SetHTTP2(true) }},
	}
	proxies := []struct{ name, port, tlsPort string }{{"Caddy", httpPort, c.port}, {"HAProxy", haPort, haTLSPort}}
	cell := 0
	for _, to := range upstreams {
		for _, proxy := range proxies {
			for _, from := range clients {
				cell++
				target := fmt.Sprintf("%s?%d", to.path, cell)
				t.Run(proxy.name+", "+from.name+" to "+to.path[1:], func(t *testing.T) {
					port := proxy.port
					if from.scheme == "https" {
						port = proxy.tlsPort
					}
					resp, err := toPort(t, port, from.protocols).Get(from.scheme + "://localhost" + target)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					if got := resp.Header.Get("Upstream-Protocol"); resp.StatusCode != http.StatusOK || resp.Proto != from.proto || got != to.proto {
						t.Errorf("%s %s, upstream %q; want %s 200, upstream %s", resp.Proto, resp.Status, got, from.proto, to.proto)
					}
					if got := saw(t, target); got != to.saw {
						t.Errorf("Apache saw %s, want %s", got, to.saw)
					}
				})
			}
		}
		t.Run("Caddy, h3 to "+to.path[1:], func(t *testing.T) {
			target := to.path + "?h3"
			got := dialH3(t, c.addr, clientTLS("localhost")).do(ask{authority: "localhost", target: target})
			if got.status != http.StatusOK || got.header.Get("Upstream-Protocol") != to.proto {
				t.Errorf("%v %v", got, got.header)
			}
			if got := saw(t, target); got != to.saw {
				t.Errorf("Apache saw %s, want %s", got, to.saw)
			}
		})
	}

	// RFC 9113 section 3.1: "Upgrade: h2c" is obsolete, and RFC 9110 section 7.8: it
	// is for one connection only. Whoever passes it on makes a tunnel.
	upgrade := func(t *testing.T, port, target string) string {
		t.Helper()
		out, err := exec.Command(curl, "--silent", "--show-error", "--output", os.DevNull, "--max-time", "20", "--http2",
			"--write-out", "HTTP/%{http_version} %{http_code}", "http://localhost:"+port+target).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	t.Run("Upgrade: h2c", func(t *testing.T) {
		if got := upgrade(t, port, "/h1?upgrade-Apache"); got != "HTTP/2 200" {
			t.Errorf("Apache itself does not upgrade: %s", got)
		}
		for _, to := range upstreams {
			target := to.path + "?upgrade-Caddy"
			if got := upgrade(t, httpPort, target); got != "HTTP/1.1 200" {
				t.Errorf("%s through Caddy: %s, want HTTP/1.1 200", to.path, got)
			}
			if got := saw(t, target); got != to.saw {
				t.Errorf("%s through Caddy: Apache saw %s, want %s", to.path, got, to.saw)
			}
			t.Logf("%s through HAProxy: %s", to.path, upgrade(t, haPort, to.path+"?upgrade-HAProxy"))
		}
	})
}
