package integration

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// The hosts that share an upstream which looks at the TLS server name.
var identities = []string{"a.id.test", "b.id.test"}

// proxied is the Caddyfile of sites that go to a TLS upstream under their own
// name, by a transport with further settings.
func proxied(port, transport, settings, upstream string) string {
	return fmt.Sprintf(`
http://a.id.test:%[1]s, http://b.id.test:%[1]s {
	reverse_proxy https://%[4]s {
		header_up Host {http.request.host}
		transport %[2]s {
			tls_insecure_skip_verify
			tls_server_name {http.request.host}
			%[3]s
		}
	}
}
`, port, transport, settings, upstream)
}

// alternate makes 400 requests, to one host after the other, and counts the
// statuses.
func alternate(t *testing.T, web *webClient, clients int) map[int]int {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	statuses := make(map[int]int)
	for range clients {
		all.Go(func() {
			for i := range 400 / clients {
				status, err := web.do("GET", identities[i%2], "/")
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return statuses
}

// transports are ours and, as the control that shows that the test can fail,
// Caddy's own.
var transports = []struct {
	name  string
	mixes bool
}{{"upstreampool", false}, {"http", true}}

// TestTLSIdentity: no request travels on a connection that was opened for
// another TLS server name, as the upstream sees it.
func TestTLSIdentity(t *testing.T) {
	t.Parallel()
	var asked, mixed atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.TLS.ServerName != r.Host {
			mixed.Add(1)
		}
		fmt.Fprint(w, r.Proto)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)

	var sites strings.Builder
	type site struct{ transport, versions string }
	ports := make(map[site]string)
	for _, transport := range transports {
		for _, versions := range []string{"1.1", "2"} {
			port := freePort(t)
			ports[site{transport.name, versions}] = port
			sites.WriteString(proxied(port, transport.name, "versions "+versions, server.Listener.Addr().String()))
		}
	}
	startCaddy(t, "", sites.String(), nil)
	for _, transport := range transports {
		for _, versions := range []string{"1.1", "2"} {
			for _, clients := range []int{1, 8} {
				t.Run(fmt.Sprintf("%s, HTTP %s, %d at once", transport.name, versions, clients), func(t *testing.T) {
					web := newWebClient(t, "127.0.0.1:"+ports[site{transport.name, versions}])
					asked.Store(0)
					mixed.Store(0)
					statuses := alternate(t, web, clients)
					if statuses[200] != 400 || asked.Load() != 400 {
						t.Errorf("statuses: %v, %d at the upstream, want 400 times 200", statuses, asked.Load())
					}
					if n := mixed.Load(); (n > 0) != transport.mixes {
						t.Errorf("%d requests came on a connection of the other name, want some: %t", n, transport.mixes)
					} else {
						t.Logf("%d of 400 requests came on a connection of the other name", n)
					}
				})
			}
		}
	}
}

// TestTLSIdentityApache: an Apache whose virtual hosts have different TLS
// settings answers 421 to what comes on the wrong connection.
func TestTLSIdentityApache(t *testing.T) {
	t.Parallel()
	addr := startApacheVHosts(t)
	var sites strings.Builder
	ports := make(map[string]string)
	for _, transport := range transports {
		ports[transport.name] = freePort(t)
		sites.WriteString(proxied(ports[transport.name], transport.name, "", addr))
	}
	c := startCaddy(t, "", sites.String(), nil)
	for _, transport := range transports {
		for _, clients := range []int{1, 8} {
			t.Run(fmt.Sprintf("%s, %d at once", transport.name, clients), func(t *testing.T) {
				statuses := alternate(t, newWebClient(t, "127.0.0.1:"+ports[transport.name]), clients)
				t.Logf("statuses: %v", statuses)
				if (statuses[421] > 0) != transport.mixes || statuses[204]+statuses[421] != 400 {
					t.Errorf("statuses: %v, want 204, and 421 among them: %t", statuses, transport.mixes)
				}
			})
		}
	}
	if replays := c.samples("replays_total", addr); len(replays) > 0 {
		t.Errorf("replays hid a 421: %v", replays)
	}
}

// startApacheVHosts starts Apache with a TLS virtual host for each identity and
// returns its address. The settings of one are stricter.
func startApacheVHosts(t *testing.T) string {
	t.Helper()
	program := needs.Program(t, "apache2", "apache2")
	dir, addr := t.TempDir(), "127.0.0.1:"+freePort(t)
	cert, err := testcert.SelfSigned("localhost")
	if err == nil {
		err = testcert.WritePEM(cert, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	}
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
ServerRoot %[1]s
ServerName 127.0.0.1
Listen %[2]s
PidFile apache.pid
ErrorLog error.log
DefaultRuntimeDir %[1]s
Mutex posixsem
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
ServerLimit 1
StartServers 1
MaxKeepAliveRequests 0
SSLEngine on
SSLCertificateFile cert.pem
SSLCertificateKeyFile key.pem
RedirectMatch 204 .*
<VirtualHost *>
	ServerName a.id.test
	SSLEngine on
</VirtualHost>
<VirtualHost *>
	ServerName b.id.test
	SSLEngine on
	SSLVerifyClient optional_no_ca
</VirtualHost>
`, dir, addr)
	file := filepath.Join(dir, "apache.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	apache := exec.Command(program, "-D", "FOREGROUND", "-f", file)
	out := new(logBuffer)
	apache.Stdout, apache.Stderr = out, out
	if err := apache.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = apache.Process.Signal(os.Interrupt)
		_ = apache.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var conn net.Conn
		if conn, err = tls.Dial("tcp", addr, clientTLS("a.id.test")); err == nil {
			conn.Close()
			return addr
		}
	}
	text, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	t.Fatalf("starting Apache: %v\n%s%s", err, out.String(), text)
	return ""
}
