package integration

import (
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// HAProxy checks servers by HTTP/1.0 without Host. A catch-all with the gate answers
// it, whether its connection has the SNI of a site or none.
//
// Checklist: M11.
func TestHAProxyCheckStaysUp(t *testing.T) {
	c := startCaddy(t, strings.Replace(strictOff, "o.y.test", "a.x.test", 1), `
a.x.test {
	misdirected
	respond "a"
}
m.x.test {
	tls {
		client_auth {
			mode require_and_verify
			trust_pool pki_root local
		}
	}
	misdirected
	respond "SECRET"
}
https:// {
	misdirected
	respond /health "ok" 200
	respond 404
}
`, []string{"a.x.test"})
	stayUp(t, fmt.Sprintf(`
backend caddy
	option httpchk GET /health
	server named %[1]s ssl verify none check inter 100 rise 3 check-sni a.x.test
	server unnamed %[1]s ssl verify none check inter 100 rise 3
`, c.addr), "named", "unnamed")
}

// stayUp starts HAProxy with a backend and waits until its checks find the servers up.
func stayUp(t *testing.T, backend string, servers ...string) {
	t.Helper()
	haproxy := needs.Program(t, "haproxy", "haproxy")
	stats := freePort(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, `defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
	timeout check 5s
listen stats
	bind 127.0.0.1:%s
	stats enable
	stats uri /
%s`, stats, backend), 0o600); err != nil {
		t.Fatal(err)
	}
	player{listen: []string{stats}, args: []string{haproxy, "-db", "-f", file}}.start(t)
	for _, server := range servers {
		poll.Succeed(t, "the check of "+server, func() error {
			status, code, err := checked("http://127.0.0.1:"+stats+"/;csv", server)
			if err == nil && (status != "UP" || code != "200") {
				err = fmt.Errorf("%s after %s", status, code)
			}
			return err
		})
	}
}

// checked returns the status of a server in HAProxy's statistics, and that of its
// last check's response.
func checked(url, server string) (status, code string, err error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", err
	}
	lines, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(string(text), "# "))).ReadAll()
	if err != nil {
		return "", "", err
	}
	column := make(map[string]int)
	for i, name := range lines[0] {
		column[name] = i
	}
	for _, line := range lines[1:] {
		if line[column["svname"]] == server {
			return line[column["status"]], line[column["check_code"]], nil
		}
	}
	return "", "", fmt.Errorf("no server %s", server)
}

// What the command check says of active health checks is what Caddy finds, and where
// it says nothing they pass.
func TestFailingHealthChecksAreForeseen(t *testing.T) {
	const failed, refused, passed = "HTTP request failed", "status code out of tolerances", "host is up"
	for _, test := range []struct {
		name, proxy string
		happens     string // what Caddy logs
		foreseen    string // empty: nothing is found
	}{
		{"of a site, by its address", `health_uri /health
			transport http {
				tls_server_name a.x.test
				tls_insecure_skip_verify
			}`, refused, "an active health check gets 421 from this server"},
		{"of a site, by its name", `health_uri /health
			health_headers {
				Host a.x.test
			}
			transport upstreampool {
				tls_server_name a.x.test
				tls_insecure_skip_verify
			}`, passed, ""},
		{"with a name that only requests have", `health_uri /health
			transport http {
				tls_server_name {http.request.host}
			}`, failed, "active health checks fail in the TLS handshake"},
		{"the pool takes the address instead", `health_uri /health
			transport upstreampool {
				tls_server_name {http.request.host}
				tls_insecure_skip_verify
			}`, passed, ""},
		{"with a source that only requests have", `health_uri /health
			transport upstreampool {
				proxy_protocol v2
				tls_insecure_skip_verify
			}`, failed, "active health checks fail before they are sent"},
		{"the same with transport http", `health_uri /health
			transport http {
				proxy_protocol v2
				tls_insecure_skip_verify
			}`, failed, "active health checks fail before they are sent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, "default_sni a.x.test", fmt.Sprintf(`
a.x.test {
	misdirected
	respond "a"
}
https:// {
	misdirected
	respond "any"
}
http://127.0.0.1:%s {
	reverse_proxy https://127.0.0.1:{$PORT} {
		health_interval 100ms
		%s
	}
}
`, freePort(t), test.proxy), []string{"a.x.test"})
			poll.Succeed(t, "the health check", func() error {
				if len(c.logged(test.happens)) == 0 {
					return fmt.Errorf("not logged: %s", test.happens)
				}
				return nil
			})
			cmd := exec.Command(binary, "connreuse", "check", filepath.Join(c.dir, "Caddyfile"))
			cmd.Env = append(os.Environ(), "PORT="+c.port)
			out, err := cmd.Output()
			if test.foreseen == "" {
				if err != nil || !strings.HasSuffix(string(out), ": nothing was found\n") {
					t.Errorf("check ends with %v: %s", err, out)
				}
				return
			}
			if err == nil || !strings.Contains(string(out), test.foreseen) {
				t.Errorf("check ends with %v, want %q: %s", err, test.foreseen, out)
			}
		})
	}
}
