package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/dns"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/internal/test/standstill"
)

// A recipe is one section of docs/recipes.md.
type recipe struct {
	caddyfile string
	others    []string // blocks of other programs' configuration
	table     [][]string
}

var block = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")

// readRecipe returns the section of docs/recipes.md with that heading.
func readRecipe(t testing.TB, heading string) (r recipe) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "recipes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/recipes.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, match := range block.FindAllStringSubmatch(section, -1) {
		if match[1] == "caddyfile" {
			r.caddyfile = match[2]
		} else {
			r.others = append(r.others, match[2])
		}
	}
	for line := range strings.SplitSeq(section, "\n") {
		if cells := strings.Split(strings.Trim(line, "| "), " | "); strings.HasPrefix(line, "| ") && len(cells) > 1 {
			r.table = append(r.table, cells)
		}
	}
	return r
}

// start runs Caddy with the recipe's Caddyfile, in which replace stands for
// addresses, and waits for certificates for names.
func (r recipe) start(t testing.TB, replace *strings.Replacer, names ...string) *caddy {
	t.Helper()
	return r.startWith(t, nil, replace, names...)
}

// startWith is start with an environment.
func (r recipe) startWith(t testing.TB, env []string, replace *strings.Replacer, names ...string) *caddy {
	t.Helper()
	sites, own := r.caddyfile, ""
	if rest, ok := strings.CutPrefix(sites, "{\n"); ok {
		own, sites, _ = strings.Cut(rest, "\n}\n")
	}
	return startCaddy(t, replace.Replace(own), replace.Replace(sites), names, env...)
}

// askHost sends a GET for host on a new connection with that SNI, to addr, and
// returns status and body.
func askHost(t testing.TB, addr, sni, host, path string, alpn ...string) string {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig:   clientTLS(sni, alpn...),
		ForceAttemptHTTP2: len(alpn) == 0 || alpn[0] == "h2",
		Protocols:         new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(len(alpn) > 0 && alpn[0] == "http/1.1")
	transport.Protocols.SetHTTP2(len(alpn) == 0 || alpn[0] == "h2")
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("GET", "https://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatalf("SNI %q, host %q: %v", sni, host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

// TestRecipeGatewayAPI asks for each row of the recipe's table.
func TestRecipeGatewayAPI(t *testing.T) {
	r := readRecipe(t, "Kubernetes Gateway API")
	names := []string{"second-example.org", "third-example.wildcard.org", "fourth-example.wildcard.org"}
	r.caddyfile = strings.ReplaceAll(r.caddyfile, "https:// {\n", "https:// {\n\ttls internal {\n\t\ton_demand\n\t}\n")
	c := r.start(t, strings.NewReplacer(), names...)
	asked := 0
	for _, row := range r.table {
		if len(row) != 3 || row[0] == "SNI" || strings.HasPrefix(row[0], "---") {
			continue
		}
		asked++
		if got := askHost(t, c.addr, row[0], row[1], "/"); got != row[2] {
			t.Errorf("SNI %s, host %s: %s, want %s", row[0], row[1], got, row[2])
		}
	}
	if asked != 15 {
		t.Errorf("%d rows asked for, want 15", asked)
	}
}

// TestRecipeClientCertificates: the guarded site is not reached over the open
// one's connection, and the open one is.
func TestRecipeClientCertificates(t *testing.T) {
	c := readRecipe(t, "A site with client certificates beside open ones").start(t, strings.NewReplacer(), "a.example.com")
	for _, test := range []struct{ sni, host, want string }{
		{"a.example.com", "a.example.com", "200 Open."},
		{"a.example.com", "vault.example.com", "421"},
		{"a.example.com", "other.example.com", "421"},
	} {
		if got := askHost(t, c.addr, test.sni, test.host, "/"); got != test.want {
			t.Errorf("SNI %s, host %s: %s, want %s", test.sni, test.host, got, test.want)
		}
	}
	cert := c.clientCert()
	conn, err := tls.Dial("tcp", c.addr, &tls.Config{ServerName: "vault.example.com", InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: vault.example.com\r\nConnection: close\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	if !strings.Contains(string(answer), "Hello, CN=client.") {
		t.Errorf("with a certificate: %s", answer)
	}
}

// TestRecipePassthrough puts the recipe's HAProxy and nginx in front: a request for b
// on a's connection gets 421 from a's machine.
func TestRecipePassthrough(t *testing.T) {
	r := readRecipe(t, "Behind HAProxy or nginx that pass TLS through")
	file := filepath.Join(t.TempDir(), "proxy.conf")
	for _, front := range []struct {
		name, before string // before: what stands before the recipe's block
		config       string
		args         func(t *testing.T) []string
	}{
		{"HAProxy", "", r.others[0], func(t *testing.T) []string {
			return []string{needs.Program(t, "haproxy", "haproxy"), "-db", "-f", file}
		}},
		{"nginx", "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\npid nginx.pid;\nevents {}\n", r.others[1],
			func(t *testing.T) []string {
				needs.File(t, "/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream")
				return []string{needs.Program(t, "nginx", "nginx-light"), "-e", "stderr", "-p", filepath.Dir(file), "-c", file}
			}},
	} {
		t.Run(front.name, func(t *testing.T) {
			args := front.args(t)
			a := r.start(t, strings.NewReplacer(), "a.example.com")
			port := freePort(t)
			config := strings.NewReplacer("bind :443", "bind 127.0.0.1:"+port, "listen 443", "listen 127.0.0.1:"+port,
				"10.0.0.1:443", a.addr, "10.0.0.2:443", a.addr).Replace(front.before + front.config)
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			player{listen: []string{port}, args: args}.start(t)
			for _, test := range []struct{ host, want string }{
				{"a.example.com", "200 Hello from a."},
				{"b.example.com", "421"},
			} {
				if got := askHost(t, net.JoinHostPort("127.0.0.1", port), "a.example.com", test.host, "/"); got != test.want {
					t.Errorf("host %s: %s, want %s", test.host, got, test.want)
				}
			}
		})
	}
}

// TestRecipeProbe asks as a Kubernetes probe does, by address and without SNI, and as
// HAProxy does.
func TestRecipeProbe(t *testing.T) {
	r := readRecipe(t, "Health checks")
	c := r.start(t, strings.NewReplacer(), "a.example.com")
	stayUp(t, strings.NewReplacer("10.0.0.1:443", c.addr, " check ", " check inter 100 rise 3 ").Replace(r.others[0]), "a")
	for _, test := range []struct{ sni, host, path, want string }{
		{"a.example.com", "a.example.com", "/", "200 Hello from a."},
		{"", "127.0.0.1", "/healthz", "200 ok"},
		{"", "a.example.com", "/", "200 Hello from a."},
		{"a.example.com", "127.0.0.1", "/healthz", "421"},
	} {
		if got := askHost(t, c.addr, test.sni, test.host, test.path); got != test.want {
			t.Errorf("SNI %q, host %s: %s, want %s", test.sni, test.host, got, test.want)
		}
	}
}

// TestRecipeGateway: a gateway sends requests for many hosts on each connection,
// with one fixed SNI. From elsewhere the same request gets 421.
func TestRecipeGateway(t *testing.T) {
	r := readRecipe(t, "Behind cloudflared, a CDN or a load balancer")
	for _, test := range []struct{ ranges, want string }{
		{"127.0.0.0/8", "200 Hello from b.example.com."},
		{"10.0.0.0/8", "421"},
	} {
		c := r.start(t, strings.NewReplacer("10.0.0.0/8", test.ranges), "a.example.com", "b.example.com")
		if got := askHost(t, c.addr, "a.example.com", "b.example.com", "/"); got != test.want {
			t.Errorf("trusted_gateways static %s: %s, want %s", test.ranges, got, test.want)
		}
	}
}

// TestRecipeErrorPages: the refusal's text is the operator's, its status stays.
func TestRecipeErrorPages(t *testing.T) {
	c := readRecipe(t, "Error pages").start(t, strings.NewReplacer("a.example.com {", "a.example.com, b.example.com {"), "a.example.com")
	transport := &http.Transport{TLSClientConfig: clientTLS("a.example.com")}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("GET", "https://"+c.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "b.example.com"
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusMisdirectedRequest || string(body) != "b.example.com does not belong on this connection." {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestRecipeStrictUpstream: Apache answers 421 to a host of another connection,
// and with the recipe never has to.
func TestRecipeStrictUpstream(t *testing.T) {
	apache := startApacheVHosts(t)
	r := readRecipe(t, "Apache or another upstream that is strict about SNI")
	c := r.start(t, strings.NewReplacer("a.example.com", "a.id.test", "b.example.com", "b.id.test", "127.0.0.1:9443", apache), "a.id.test", "b.id.test")
	for range 10 {
		for _, host := range []string{"a.id.test", "b.id.test"} {
			if got := askHost(t, c.addr, host, host, "/"); got != "204" {
				t.Fatalf("%s: %s, want 204", host, got)
			}
		}
	}
}

// TestRecipeH2C: gRPC's upstream gets HTTP/2 without TLS.
func TestRecipeH2C(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}))
	upstream.Config.Protocols = protocols
	upstream.Start()
	defer upstream.Close()
	c := readRecipe(t, "gRPC").start(t, strings.NewReplacer("127.0.0.1:9000", upstream.Listener.Addr().String()), "grpc.example.com")
	if got := askHost(t, c.addr, "grpc.example.com", "grpc.example.com", "/"); got != "200 HTTP/2.0" {
		t.Errorf("%s, want HTTP/2.0", got)
	}
}

// TestRecipeOneConnection asks Python's server, which serves one connection at a
// time, with requests that can be replayed and others that cannot.
func TestRecipeOneConnection(t *testing.T) {
	t.Parallel()
	python := needs.Program(t, "python3", "python3")
	port := freePort(t)
	player{dir: t.TempDir(), listen: []string{port}, args: []string{python, "-c", `
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"ok")
    do_POST = do_GET
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
`, port}}.start(t)
	c := readRecipe(t, "An upstream that serves one connection at a time").start(t, strings.NewReplacer("127.0.0.1:8000", "127.0.0.1:"+port), "a.example.com")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS("a.example.com")}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	for i := range 6 {
		method := []string{"GET", "POST"}[i%2]
		req, err := http.NewRequest(method, "https://"+c.addr, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "a.example.com"
		status := 0
		took, lost := standstill.Of(func() {
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			status = resp.StatusCode
		})
		if status != 200 || took > 3*time.Second+lost {
			t.Errorf("%s %d: %d after %v, in which nothing ran for %v", method, i, status, took, lost)
		}
		time.Sleep(600 * time.Millisecond) // a POST takes no connection that was idle for so long
	}
}

// TestRecipeFleet: a machine that is restarted knows at once what it had learned, and
// nothing of what another one has.
func TestRecipeFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, readRecipe(t, "A fleet with shared storage"), time.Second)
	one, two := t.TempDir(), t.TempDir()
	first := f.start(one)
	f.learns(first)
	if n := f.stored(); n != 1 {
		t.Fatalf("%d values are stored, want 1", n)
	}
	other := f.start(two)
	f.ask(other, "GET")
	time.Sleep(time.Second)
	if source := f.source(other); source != "assumed" {
		t.Errorf("another machine goes by what is %s", source)
	}
	f.learns(other)
	if n := f.stored(); n != 2 {
		t.Errorf("%d values are stored, want one of each machine", n)
	}
	first.stop()
	again := f.start(one)
	f.ask(again, "GET")
	poll.Until(t, "what was learned is known again", func() bool { return f.source(again) == "remembered" })
}

// TestRecipeMovingService moves the name: requests go to the new address, and none
// fails.
func TestRecipeMovingService(t *testing.T) {
	const first, second = "127.0.0.2", "127.0.0.3"
	port := freePort(t)
	for _, addr := range []string{first, second} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			t.Skip(err)
		}
		upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, addr) }))
		upstream.Listener = l
		upstream.Start()
		defer upstream.Close()
	}
	server := dns.Serve(t, first)
	c := readRecipe(t, "A service that moves to another address").start(t,
		strings.NewReplacer("app.internal:8080", "app.internal:"+port, "10.0.0.53", server.Addr(), "5s", "200ms"), "app.example.com")
	ask := func() string {
		time.Sleep(10 * time.Millisecond)
		return askHost(t, c.addr, "app.example.com", "app.example.com", "/")
	}
	if got := ask(); got != "200 "+first {
		t.Fatal(got)
	}
	server.Name(second)
	poll.Until(t, "requests go to the new address", func() bool {
		got := ask()
		if got != "200 "+first && got != "200 "+second {
			t.Fatal(got)
		}
		return got == "200 "+second
	})
	for range 20 {
		if got := ask(); got != "200 "+second {
			t.Error(got)
		}
	}
}
