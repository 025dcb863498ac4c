package misdirected

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// witness is a handler that notes who got as far as this, and answers.
type witness struct {
	Name string `json:"name"`
}

func init() { caddy.RegisterModule(witness{}) }

func (witness) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_witness", New: func() caddy.Module { return new(witness) }}
}

var seen struct {
	sync.Mutex
	list []string
}

func (h *witness) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	seen.Lock()
	seen.list = append(seen.list, h.Name+" "+r.URL.Path+repl.ReplaceAll(" {http.misdirected.reason}", ""))
	seen.Unlock()
	_, err := io.WriteString(w, h.Name)
	return err
}

// witnessed returns what witnesses saw since the last call.
func witnessed() []string {
	seen.Lock()
	defer seen.Unlock()
	list := seen.list
	seen.list = nil
	return list
}

func witnessing(name string) string { return `{"handler":"test_witness","name":"` + name + `"}` }

// run runs Caddy in this process until the test ends or runs another. It returns
// the log's file.
func run(t testing.TB, tlsApp string, port int, server string) (log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	cfg := testcaddy.Config(t, fmt.Sprintf(`{%s,"http":{"grace_period":"5s","servers":{"srv0":{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},"strict_sni_host":false,%s}}}}`,
		tlsApp, port, server), log)
	if err := caddy.Run(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return log
}

// A wire is one connection to a server.
type wire struct {
	protocol string
	// do sends a request whose target is that of an absolute URL in HTTP/1 if that
	// is set, and else the path.
	do func(method, host, target string) (status int, header http.Header, body string, err error)
}

// dial opens a connection of a protocol from an address of this machine.
func dial(t testing.TB, protocol string, from net.IP, port int, config *tls.Config) wire {
	t.Helper()
	switch protocol {
	case "h1":
		return dialH1(t, from, port, config)
	case "h2":
		c := tlsConn(t, from, port, config, "h2")
		//lint:ignore SA1019 net/http has no client for a connection that is there already
		conn, err := new(http2.Transport).NewClientConn(c)
		if err != nil {
			t.Fatal(err)
		}
		return wire{"h2", func(method, host, target string) (int, http.Header, string, error) {
			return roundTrip(conn, method, host, target)
		}}
	}
	conn := dialQUIC(t, packets(t, from), port, config)
	return overHTTP3(conn)
}

func overHTTP3(conn *quic.Conn) wire {
	h3 := new(http3.Transport).NewClientConn(conn)
	return wire{"h3", func(method, host, target string) (int, http.Header, string, error) {
		return roundTrip(h3, method, host, target)
	}}
}

func tlsConn(t testing.TB, from net.IP, port int, config *tls.Config, alpn string) *tls.Conn {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{alpn}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 20 * time.Second}
	c, err := tls.DialWithDialer(dialer, "tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func dialH1(t testing.TB, from net.IP, port int, config *tls.Config) wire {
	t.Helper()
	c := tlsConn(t, from, port, config, "http/1.1")
	r := bufio.NewReader(c)
	return wire{"h1", func(method, host, target string) (int, http.Header, string, error) {
		text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, cmp.Or(target, "/"), host)
		return exchange(c, r, method, text)
	}}
}

// exchange sends a request of HTTP/1 as it is and reads one response.
func exchange(c net.Conn, r *bufio.Reader, method, text string) (int, http.Header, string, error) {
	if _, err := io.WriteString(c, text); err != nil {
		return 0, nil, "", err
	}
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return 0, nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body), err
}

func packets(t testing.TB, from net.IP) net.PacketConn {
	t.Helper()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	return udp
}

func dialQUIC(t testing.TB, udp net.PacketConn, port int, config *tls.Config) *quic.Conn {
	t.Helper()
	conn, err := tryQUIC(t, udp, port, config)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func tryQUIC(t testing.TB, udp net.PacketConn, port int, config *tls.Config) (*quic.Conn, error) {
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	transport := &quic.Transport{Conn: udp}
	conn, err := transport.DialEarly(ctx, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, config, nil)
	if err != nil {
		transport.Close()
		return nil, err
	}
	t.Cleanup(func() {
		conn.CloseWithError(0, "")
		transport.Close()
	})
	return conn, nil
}

func roundTrip(rt http.RoundTripper, method, host, target string) (int, http.Header, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r := (&http.Request{
		Method: method, Host: host, Header: make(http.Header),
		URL: &url.URL{Scheme: "https", Host: host, Path: cmp.Or(target, "/")},
	}).WithContext(ctx)
	if method == http.MethodConnect {
		r.URL.Path = ""
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return resp.StatusCode, resp.Header, "", nil
	}
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body), err
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func clientTLS(sni string) *tls.Config {
	return &tls.Config{ServerName: sni, InsecureSkipVerify: true}
}

// vault is a server on which vault.wire.test requires client certificates, and so
// does any name that no TLS policy lists; connections for dropped.wire.test are
// dropped. Its error routes ask a backend, as a fall-back for failures does. All
// sites trust gateways at 127.0.0.77, let connections without SNI pass, and share.
func vault(handlers string) string {
	gate := `{"handler":"misdirected","missing_sni":"accept","share":[["shop.wire.test","vault.wire.test"]],
		"trusted_gateways":{"source":"static","ranges":["127.0.0.77"]}}`
	if handlers != "" {
		gate = handlers + "," + gate
	}
	site := func(match, name string) string {
		return `{` + match + `"terminal":true,"handle":[` + gate + `,` + witnessing(name) + `]}`
	}
	return `"tls_connection_policies":[
			{"match":{"sni":["shop.wire.test","blog.wire.test",""]},"default_sni":"shop.wire.test"},
			{"match":{"sni":["dropped.wire.test"]},"drop":true},
			{"client_authentication":{"mode":"require"}}],
		"routes":[` + site(`"match":[{"host":["shop.wire.test"]}],`, "shop") + `,` + site(`"match":[{"host":["blog.wire.test"]}],`, "blog") + `,` +
		site(`"match":[{"host":["vault.wire.test"]}],`, "SECRET vault") + `,` + site("", "SECRET catch-all") + `],
		"errors":{"routes":[{"handle":[` + witnessing("SECRET error route") + `]}]}`
}

var wireNames = []string{"shop.wire.test", "blog.wire.test", "vault.wire.test", "other.wire.test"}

// Nobody gets to a site that requires a client certificate on a connection that
// shows none: whatever the form of the request and wherever it comes from.
//
// Checklist: M3, M15, M18, M25, M26.
func TestClientCertificateSiteIsReachedInNoWay(t *testing.T) {
	port := testcaddy.FreePort(t)
	run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, vault(""))
	gateway, anybody := net.IPv4(127, 0, 0, 77), net.IPv4(127, 0, 0, 1)
	refused := 0
	for _, protocol := range []string{"h1", "h2", "h3"} {
		for _, sni := range []string{"shop.wire.test", ""} {
			for _, from := range []net.IP{anybody, gateway} {
				for _, host := range []string{"vault.wire.test", "other.wire.test", "dropped.wire.test", "vault.wire.test:443", "VAULT.wire.test", "vault.wire.test."} {
					type form struct{ method, host, target string }
					forms := []form{{"GET", host, ""}, {"POST", host, ""}, {"HEAD", host, ""}, {"CONNECT", host, host}}
					if protocol == "h1" {
						forms = append(forms, form{"GET", "shop.wire.test", "https://" + host + "/"}, form{"GET", host, "https://" + host + "/"}, form{"GET", host, "x:y"})
					}
					for _, f := range forms {
						status, header, body, err := dial(t, protocol, from, port, clientTLS(sni)).do(f.method, f.host, f.target)
						saw := witnessed()
						if err != nil || status != 421 && status != 400 || len(saw) > 0 || header.Get("Cache-Control") != "no-store" {
							t.Errorf("%s from %s, SNI %q, %v: %d %q (%v), seen by %q", protocol, from, sni, f, status, body, err, saw)
						}
						refused++
					}
				}
			}
		}
		// what the test could be wrong about
		for _, from := range []net.IP{anybody, gateway} {
			want := map[string]int{anybody.String(): 421, gateway.String(): 200}[from.String()]
			if status, _, _, err := dial(t, protocol, from, port, clientTLS("shop.wire.test")).do("GET", "blog.wire.test", ""); err != nil || status != want {
				t.Errorf("%s from %s: blog answers %d (%v), want %d", protocol, from, status, err, want)
			}
		}
		config := clientTLS("vault.wire.test")
		cert, err := testcert.SelfSigned("client")
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
		if status, _, body, err := dial(t, protocol, anybody, port, config).do("GET", "vault.wire.test", ""); err != nil || status != 200 || body != "SECRET vault" {
			t.Errorf("%s with a certificate: %d %s (%v)", protocol, status, body, err)
		}
		witnessed()
	}
	t.Logf("%d ways", refused)
}

// blind is a client's end that sends and reads nothing any more, like one who made
// up its address.
type blind struct {
	net.PacketConn
	closed chan struct{}
	once   sync.Once
}

func (b *blind) ReadFrom([]byte) (int, net.Addr, error) {
	<-b.closed
	return 0, nil, net.ErrClosed
}

// SetReadDeadline is how quic-go ends its reading.
func (b *blind) SetReadDeadline(time.Time) error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// Early data over QUIC comes from an address that nobody has validated (RFC 9001
// section 9.2): whoever knows a gateway's address can make it up.
//
// Checklist: M24.
func TestEarlyDataFromAGatewaysAddressIsNotTrusted(t *testing.T) {
	port := testcaddy.FreePort(t)
	run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, vault(""))
	gateway := net.IPv4(127, 0, 0, 77)
	for _, test := range []struct {
		host string
		want string // what a gateway sees with a complete handshake
	}{
		{"blog.wire.test", "blog /early trusted_gateway"},
		{"shop.wire.test", "shop /early trusted_gateway"},
		{"vault.wire.test", ""},
	} {
		config := clientTLS("shop.wire.test")
		tickets := &ticketCache{tls.NewLRUClientSessionCache(1), make(chan struct{}, 8)}
		config.ClientSessionCache = tickets
		first := dialQUIC(t, packets(t, gateway), port, config)
		if status, _, _, err := overHTTP3(first).do("GET", test.host, "/early"); err != nil || (status == 200) != (test.want != "") {
			t.Fatalf("%s from a gateway: %d (%v)", test.host, status, err)
		}
		if saw := strings.Join(witnessed(), ","); saw != test.want {
			t.Fatalf("%s from a gateway: seen by %q, want %q", test.host, saw, test.want)
		}
		<-tickets.put

		conn := dialQUIC(t, &blind{packets(t, gateway), make(chan struct{}), sync.Once{}}, port, config)
		go func() { _, _, _, _ = overHTTP3(conn).do(http3.MethodGet0RTT, test.host, "/early") }()
		// a request behind it over a connection of its own shows that time has passed
		probe := dial(t, "h3", net.IPv4(127, 0, 0, 1), port, clientTLS("shop.wire.test"))
		patience := needs.InLong(2*time.Second, 500*time.Millisecond) // with what must not come
		if test.host == "shop.wire.test" {
			patience = 20 * time.Second
		}
		deadline := time.Now().Add(patience)
		var saw []string
		for time.Now().Before(deadline) && len(saw) == 0 {
			if _, _, _, err := probe.do("GET", "shop.wire.test", "/probe"); err != nil {
				t.Fatal(err)
			}
			saw = slices.DeleteFunc(witnessed(), func(s string) bool { return strings.Contains(s, "/probe") })
			time.Sleep(10 * time.Millisecond) // polls the server
		}
		// its own name needs no trust
		want := map[bool]string{true: "shop /early same_host"}[test.host == "shop.wire.test"]
		if got := strings.Join(saw, ","); got != want {
			t.Errorf("%s: early data was seen by %q, want %q", test.host, got, want)
		}
	}
}

// A ticketCache tells when a session ticket has come.
type ticketCache struct {
	tls.ClientSessionCache
	put chan struct{}
}

func (c *ticketCache) Put(key string, state *tls.ClientSessionState) {
	c.ClientSessionCache.Put(key, state)
	select {
	case c.put <- struct{}{}:
	default:
	}
}

// hiding is a listener wrapper whose connections do not show the TLS connection
// below.
type hiding struct{}

func init() { caddy.RegisterModule(hiding{}) }

func (hiding) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.test_hiding", New: func() caddy.Module { return new(hiding) }}
}

func (hiding) WrapListener(ln net.Listener) net.Listener { return hidingListener{ln} }

type hidingListener struct{ net.Listener }

func (l hidingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return struct{ net.Conn }{c}, err
}

// A wrapper behind TLS hides the SNI: every request is refused, also by a gate that
// only reports, and said once.
func TestHiddenTLSIsRefused(t *testing.T) {
	for _, test := range []struct{ name, wrapper, gate string }{
		{"a wrapper of some plugin", `{"wrapper":"test_hiding"}`, `{"handler":"misdirected"}`},
		{"report_only", `{"wrapper":"test_hiding"}`, `{"handler":"misdirected","report_only":true}`},
		{"error_routes", `{"wrapper":"test_hiding"}`, `{"handler":"misdirected","error_routes":true}`},
		{"proxy_protocol", `{"wrapper":"proxy_protocol","allow":["10.0.0.0/8"]}`, `{"handler":"misdirected"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := testcaddy.FreePort(t)
			log := run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, `"listener_wrappers":[`+test.wrapper+`],"tls_connection_policies":[{}],
				"routes":[{"handle":[`+test.gate+`,`+witnessing("site")+`]}]`)
			for _, protocol := range []string{"h1", "h2", "h1"} {
				status, _, body, err := dial(t, protocol, nil, port, clientTLS("shop.wire.test")).do("GET", "shop.wire.test", "")
				if saw := witnessed(); err != nil || status != 421 || len(saw) > 0 {
					t.Errorf("%s: %d %q (%v), seen by %q", protocol, status, body, err, saw)
				}
			}
			// QUIC has no listener wrappers
			if status, _, _, err := dial(t, "h3", nil, port, clientTLS("shop.wire.test")).do("GET", "shop.wire.test", ""); err != nil || status != 200 {
				t.Errorf("h3: %d (%v)", status, err)
			}
			witnessed()
			if latest := Recent()[0]; latest.Reason != "tls_hidden" || latest.Status != 421 || latest.ReportOnly {
				t.Errorf("the latest refusal is %+v", latest)
			}
			if n := strings.Count(readFile(t, log), "a listener wrapper hides"); n != 1 {
				t.Errorf("said %d times, want once", n)
			}
		})
	}
}

// Listeners without TLS are those on the HTTP port, if the server has any.
func TestPlainListeners(t *testing.T) {
	local := func(addr net.Addr) context.Context {
		return context.WithValue(context.Background(), http.LocalAddrContextKey, addr)
	}
	tcp := func(port int) context.Context { return local(&net.TCPAddr{Port: port}) }
	for _, test := range []struct {
		name, server string
		ctx          context.Context
		want         int
	}{
		{"no TLS at all", `"listen":[":8080"]`, tcp(8080), 200},
		{"HTTPS alone", `"listen":[":8443"],"tls_connection_policies":[{}]`, tcp(8443), 421},
		{"HTTPS alone, and a PROXY header that says the HTTP port", `"listen":[":8443"],"tls_connection_policies":[{}]`, tcp(8080), 421},
		{"both, the HTTP port", `"listen":[":8443",":8080"],"tls_connection_policies":[{}]`, tcp(8080), 200},
		{"both, the other", `"listen":[":8443",":8080"],"tls_connection_policies":[{}]`, tcp(8443), 421},
		{"a range with the HTTP port", `"listen":["127.0.0.1:8078-8082"],"tls_connection_policies":[{}]`, tcp(8080), 200},
		{"a range with the HTTP port, another of it", `"listen":["127.0.0.1:8078-8082"],"tls_connection_policies":[{}]`, tcp(8081), 421},
		{"a placeholder", `"listen":[":{env.CONNREUSE_TEST_PORT}"],"tls_connection_policies":[{}]`, tcp(8080), 200},
		{"a port that the system chooses", `"listen":["127.0.0.1:0"],"tls_connection_policies":[{}]`, tcp(8080), 421},
		{"a unix socket", `"listen":["unix//tmp/connreuse-test.sock"],"tls_connection_policies":[{}]`, local(&net.UnixAddr{Name: "/tmp/connreuse-test.sock"}), 421},
		{"a unix socket beside the HTTP port", `"listen":["unix//tmp/connreuse-test.sock",":8080"],"tls_connection_policies":[{}]`, local(&net.UnixAddr{Name: "@"}), 421},
		{"an address that says it in text", `"listen":[":8080"],"tls_connection_policies":[{}]`, local(textAddr("[::1]:8080")), 200},
		{"no address", `"listen":[":8080"],"tls_connection_policies":[{}]`, context.Background(), 421},
		{"HTTP/3 alone on the HTTP port", `"listen":[":8080",":8443"],"listen_protocols":[["h3"],null],"tls_connection_policies":[{}]`, tcp(8080), 421},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("CONNREUSE_TEST_PORT", "8080")
			srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, `{"http":{"http_port":8080,"servers":{"srv0":{"automatic_https":{"disable":true},`+test.server+`,
				"routes":[{"handle":[{"handler":"misdirected"},`+witnessing("site")+`]}]}}}}`, ""))
			r, _ := http.NewRequestWithContext(test.ctx, "GET", "http://a.test/", nil)
			w := new(recorder)
			srv.ServeHTTP(w, r)
			if witnessed(); w.status != test.want {
				t.Errorf("status %d, want %d", w.status, test.want)
			}
		})
	}
}

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

// A recorder is a response writer that cannot do more than that.
type recorder struct {
	bytes.Buffer
	header http.Header
	status int
}

func (w *recorder) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *recorder) WriteHeader(status int) { w.status = status }

func (w *recorder) Write(p []byte) (int, error) {
	w.status = cmp.Or(w.status, 200)
	return w.Buffer.Write(p)
}
