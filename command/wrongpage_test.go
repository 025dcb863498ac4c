package command

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// inFront is a HAProxy that passes TLS connections on by their SNI.
const inFront = `defaults
  mode tcp
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend by-sni
  bind 127.0.0.1:%d
  tcp-request inspect-delay 2s
  tcp-request content accept if { req_ssl_hello_type 1 }
  use_backend console if { req_ssl_sni -i console.shared.test }
  use_backend keycloak if { req_ssl_sni -i keycloak.shared.test }
backend console
  server s1 127.0.0.1:%d
backend keycloak
  server s1 127.0.0.1:%d
`

// behind are two nginx servers that answer for each host they are asked for, with
// one certificate. %[4]s is what is in both pages and changes.
const behind = `daemon off;
pid %[1]s/nginx.pid;
worker_processes 1;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  ssl_certificate %[1]s/cert.pem;
  ssl_certificate_key %[1]s/key.pem;
  default_type text/html;
  server { listen 127.0.0.1:%[2]d ssl http2; location / { return 200 "<title>CONSOLE</title><h1>console</h1>%[4]s\n"; } }
  server { listen 127.0.0.1:%[3]d ssl http2; location / { return 200 "<title>KEYCLOAK</title><h1>log in</h1>%[4]s\n"; } }
}
`

// TestWrongPageBehindHAProxy: two servers share a certificate, and the proxy in front
// of them knows only the SNI. A client that coalesces gets the page of the other one,
// with status 200.
func TestWrongPageBehindHAProxy(t *testing.T) {
	haproxy, nginx := needs.Program(t, "haproxy", "haproxy"), needs.Program(t, "nginx", "nginx")
	ca := newAuthority(t)
	for _, test := range []struct{ name, changes string }{
		{"always the same", ""},
		{"with a nonce", "<p>$request_id $connection $msec</p>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			front, console, keycloak := testcaddy.FreePort(t), testcaddy.FreePort(t), testcaddy.FreePort(t)
			if err := testcert.WritePEM(ca.issue("*.shared.test"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
				t.Fatal(err)
			}
			write := func(name, text string) string {
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return file
			}
			runUntilEnd(t, exec.Command(nginx, "-p", dir, "-e", "stderr", "-c", write("nginx.conf", fmt.Sprintf(behind, dir, console, keycloak, test.changes))))
			runUntilEnd(t, exec.Command(haproxy, "-f", write("haproxy.cfg", fmt.Sprintf(inFront, front, console, keycloak))))
			for _, port := range []int{front, console, keycloak} {
				listens(t, port)
			}
			o := options{dialer: dialer{roots: ca.pool(), resolve: make(map[string][]string)}}
			var urls []string
			for _, name := range []string{"console", "keycloak"} {
				address := fmt.Sprintf("%s.shared.test:%d", name, front)
				o.resolve[address] = []string{"127.0.0.1"}
				urls = append(urls, "https://"+address)
			}
			code, got := coalesceOnSockets(t, o, urls...)
			if code != exitWrong {
				t.Errorf("exit code %d, want %d", code, exitWrong)
			}
			for i, titles := range [][2]string{{"CONSOLE", "KEYCLOAK"}, {"KEYCLOAK", "CONSOLE"}} {
				p := got.Pairs[i]
				if p.Verdict != verdictWrong || p.Comparison != pageAnother || p.Page.Title != titles[0] || got.Sites[1-i].Page.Title != titles[1] ||
					!strings.Contains(p.Meaning, "and gets the page of "+strings.ToLower(titles[0])) {
					t.Errorf("%s on a connection for %s: %+v", p.Second, p.First, p)
				}
			}
		})
	}
}

// runUntilEnd runs a program until the test ends.
func runUntilEnd(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", cmd, &output)
		}
	})
}

// listens waits until something listens on a port of 127.0.0.1.
func listens(t *testing.T, port int) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		if time.Since(begin) > 20*time.Second {
			t.Fatal(err)
		}
	}
}

// coalesceOnSockets is the command coalesce on real sockets.
func coalesceOnSockets(t *testing.T, o options, urls ...string) (code int, result coalesceJSON) {
	t.Helper()
	var out bytes.Buffer
	if o.timeout == 0 {
		o.timeout = defaultTimeout
	}
	o.dial, o.stdout, o.json = new(net.Dialer).DialContext, &out, true
	code, err := coalesce(t.Context(), urls, o)
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &result)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	return code, result
}

// TestPagesOfServers: what pages look like on the wire, from net/http's server with
// HTTP/2 and HTTP/1.1.
func TestPagesOfServers(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	ca := newAuthority(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Host)
		if r.URL.Query().Has("by-sni") {
			host = r.TLS.ServerName
		}
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Set-Cookie", fmt.Sprintf("session=%d", time.Now().UnixNano()))
		if cookie := r.Header.Get("Cookie"); cookie != "" {
			fmt.Fprint(w, "Welcome back.")
		}
		page := "<title>" + host + "</title>"
		switch r.URL.Path {
		case "/large":
			_, _ = io.WriteString(w, page)
			for range 4 {
				_, _ = w.Write(bytes.Repeat([]byte{' '}, maxPage))
			}
		case "/compressed": // though nobody asked for that
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, 1+int(time.Since(begun)/time.Millisecond)%9)
			_, _ = io.WriteString(z, page)
			_ = z.Close()
		case "/stream":
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, page)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case "/slow":
			_, _ = io.WriteString(w, page)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			_, _ = io.WriteString(w, page)
		}
	})
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue("*.pages.test")}}
	s.StartTLS()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	old := httptest.NewUnstartedServer(handler)
	old.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue("*.pages.test")}}
	old.StartTLS()
	t.Cleanup(old.Close)
	t.Cleanup(old.CloseClientConnections)
	port := func(s *httptest.Server) string { return s.URL[strings.LastIndexByte(s.URL, ':'):] }

	for _, test := range []struct {
		path string
		want comparison
		code int
	}{
		{"/", pageSame, 0},
		{"/?by-sni", pageAnother, exitWrong},
		{"/large", pageSame, 0},
		{"/large?by-sni", pageAnother, exitWrong},
		{"/compressed", pageSame, 0},
		{"/compressed?by-sni", pageAnother, exitWrong},
		{"/stream", pageNotComparable, exitFailed},
		{"/slow", pageSame, 0},
		{"/slow?by-sni", pageAnother, exitWrong},
	} {
		t.Run(test.path, func(t *testing.T) {
			t.Parallel()
			o := options{dialer: dialer{roots: ca.pool(), resolve: make(map[string][]string)}}
			if strings.HasPrefix(test.path, "/slow") {
				o.timeout = 2 * time.Second
			}
			var urls []string
			for _, name := range []string{"a.pages.test", "b.pages.test"} {
				o.resolve[name+port(s)] = []string{"127.0.0.1"}
				o.resolve[name+port(old)] = []string{"127.0.0.1"}
				urls = append(urls, "https://"+name+port(s)+test.path)
			}
			code, got := coalesceOnSockets(t, o, urls...)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			for _, p := range got.Pairs {
				if p.Comparison != test.want {
					t.Errorf("%s on a connection for %s: %s, %s; want %s", p.Second, p.First, p.Comparison, p.ComparisonWhy, test.want)
				}
			}
			// HTTP/1.1: the page is read alike, though no connection is shared.
			_, got = coalesceOnSockets(t, o, "https://a.pages.test"+port(old)+test.path, urls[1])
			if h1, h2 := got.Sites[0], got.Sites[1]; h1.Page == nil || h1.Protocol != "HTTP/1.1" || h1.Page.Length != h2.Page.Length {
				t.Errorf("over HTTP/1.1 %+v (%+v), over HTTP/2 %+v", h1, h1.Page, h2.Page)
			}
		})
	}
}
