package upstreampool

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-connreuse/connreuse/internal/test/apart"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// forHost makes req one that came for host, as far as placeholders go.
func forHost(req *http.Request, host string) *http.Request {
	repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.request.host", host)
	return req
}

// Requests for two hosts, alternating, over one upstream address: none travels
// on a connection opened for the other's TLS server name.
//
// Checklist: P16.
func TestServerName(t *testing.T) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		for _, clients := range []int{1, 8} {
			t.Run(fmt.Sprint(protocol, " ", clients), func(t *testing.T) {
				srv, conns := tlsServer(t, protocol)
				tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.TLS.ServerName = "{http.request.host}" })
				addr := srv.Listener.Addr().String()
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						for i := range 400 / clients {
							host := []string{"a.test", "b.test"}[i%2]
							got := mustSend(t, tr, forHost(newRequest(t, "GET", addr, nil), host))
							if _, sni, _ := strings.Cut(got, " "); sni != host {
								t.Errorf("a request for %s travelled on a connection for %s", host, sni)
							}
						}
					})
				}
				wg.Wait()
				if n := conns.Load(); n > int64(4*clients) {
					t.Errorf("%d connections for 400 requests", n)
				}
			})
		}
	}
}

// Checklist: P16.
func TestServerNameForms(t *testing.T) {
	srv, conns := tlsServer(t, "h2")
	addr := srv.Listener.Addr().String()
	tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.TLS.ServerName = "{http.request.host}" })
	for _, host := range []string{"a.test", "A.test", "a.test."} { // one name
		mustSend(t, tr, forHost(newRequest(t, "GET", addr, nil), host))
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for three spellings of one name", n)
	}
	// A health check has no host to put in: the address is dialed by itself.
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	// And one has no variables at all.
	host, port, _ := net.SplitHostPort(addr)
	ctx := context.WithValue(t.Context(), dialInfoKey, reverseproxy.DialInfo{Network: "tcp", Address: addr, Host: host, Port: port})
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+addr+"/", nil)
	mustSend(t, tr, req)
}

// Every part of the key counts, and nothing else does.
//
// Checklist: P16.
func TestKeys(t *testing.T) {
	tr := newTransport(t, func(tr *Transport) {
		tr.TLS = &reverseproxy.TLSConfig{ServerName: "{http.request.host}", ExceptPorts: []string{"80"}}
		tr.ProxyProtocol = "v2"
	})
	keyOf := func(change func(*http.Request)) key {
		req := forHost(newRequest(t, "GET", "10.0.0.1:443", nil), "a.test")
		caddyhttp.SetVar(req.Context(), proxyProtocolVar, reverseproxy.ProxyProtocolInfo{AddrPort: netip.MustParseAddrPort("1.2.3.4:5")})
		req.URL.Host = url.QueryEscape("1.2.3.4:5->10.0.0.1:443") // as reverse_proxy does
		if change != nil {
			change(req)
		}
		tr.setScheme(req)
		var tg target
		if err := tr.target(req, &tg); err != nil {
			t.Fatal(err)
		}
		return tg.key
	}
	dial := func(network, addr string) func(*http.Request) {
		host, port, _ := net.SplitHostPort(addr)
		return func(req *http.Request) {
			*req = *req.WithContext(context.WithValue(req.Context(), dialInfoKey,
				reverseproxy.DialInfo{Network: network, Address: addr, Host: host, Port: port}))
		}
	}
	seen := map[key]string{}
	for name, change := range map[string]func(*http.Request){
		"base":    nil,
		"address": dial("tcp", "10.0.0.2:443"),
		"port":    dial("tcp", "10.0.0.1:8443"),
		"scheme":  dial("tcp", "10.0.0.1:80"),
		"network": dial("tcp6", "10.0.0.1:443"),
		"sni":     func(req *http.Request) { forHost(req, "b.test") },
		"upgrade": func(req *http.Request) {
			req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
		},
		"source": func(req *http.Request) {
			caddyhttp.SetVar(req.Context(), proxyProtocolVar, reverseproxy.ProxyProtocolInfo{AddrPort: netip.MustParseAddrPort("1.2.3.4:6")})
		},
	} {
		k := keyOf(change)
		if other, ok := seen[k]; ok {
			t.Errorf("%s and %s have one key: %+v", name, other, k)
		}
		seen[k] = name
	}
	same := keyOf(func(req *http.Request) { req.Method = "POST"; req.Host = "other.test"; req.URL.Path = "/x" })
	if seen[same] != "base" {
		t.Errorf("method, Host or path changed the key: %+v", same)
	}
	if k := keyOf(dial("tcp", "10.0.0.1:80")); k.scheme != "http" || k.sni != "" {
		t.Errorf("tls_except_ports does not work with PROXY protocol: %+v", k)
	}
}

// The names we share with reverse_proxy are its own.
func TestCaddyNames(t *testing.T) {
	want := reverseproxy.DialInfo{Network: "tcp", Address: "a:1", Host: "a", Port: "1"}
	ctx := context.WithValue(t.Context(), dialInfoKey, want)
	if got, ok := reverseproxy.GetDialInfo(ctx); !ok || got != want {
		t.Errorf("dial info = %+v, %v", got, ok)
	}
}

func TestProxyProtocol(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		header, err := r.ReadString('\n')
		if err != nil {
			return
		}
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, strings.TrimSpace(header))
		}
	})
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ProxyProtocol = "v1" })
	ask := func(source string) (string, error) {
		req := newRequest(t, "GET", s.addr(), nil)
		if source != "" {
			caddyhttp.SetVar(req.Context(), proxyProtocolVar, reverseproxy.ProxyProtocolInfo{AddrPort: netip.MustParseAddrPort(source)})
			req.URL.Host = url.QueryEscape(source + "->" + s.addr())
		}
		_, body, err := send(tr, req)
		return body, err
	}
	for range 2 {
		for _, source := range []string{"192.0.2.1:1000", "192.0.2.1:1001", "192.0.2.2:1000"} {
			ap := netip.MustParseAddrPort(source)
			got, err := ask(source)
			if want := fmt.Sprintf("PROXY TCP4 %s 0.0.0.0 %d 0", ap.Addr(), ap.Port()); err != nil || got != want {
				t.Errorf("header %q, %v; want %q", got, err, want)
			}
		}
	}
	if n := s.conns.Load(); n != 3 {
		t.Errorf("%d connections for three sources", n)
	}
	if _, err := ask(""); err == nil || !strings.Contains(err.Error(), "getting PROXY protocol source") {
		t.Errorf("without a source: %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	s := serveListener(t, l, echo)
	tr := newTransport(t, known)
	for range 3 {
		if got := mustSend(t, tr, requestTo(t, t.Context(), "GET", "unix", path, nil)); got != "1" {
			t.Errorf("connection %s", got)
		}
	}
	if s.conns.Load() != 1 {
		t.Errorf("%d connections", s.conns.Load())
	}
}

// transport http has no read_timeout on Unix sockets: there is nothing that would
// extend it with each Read, so a long response would be cut off.
func TestUnixSocketHasNoReadTimeout(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Skip(err)
	}
	serveListener(t, l, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
			for range 6 {
				time.Sleep(50 * time.Millisecond)
				io.WriteString(c, "a")
			}
		}
	})
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ReadTimeout = caddy.Duration(200 * time.Millisecond) })
	for range 2 {
		if got := mustSend(t, tr, requestTo(t, t.Context(), "GET", "unix", l.Addr().String(), nil)); got != "aaaaaa" {
			t.Errorf("body %q", got)
		}
	}
}

// Files that the settings name belong to a pool's identity: when one changes, the
// next configuration gets pools of its own, and the ones after that share those.
func TestReloadAfterFilesChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	load := func() *Transport {
		tr := &Transport{HTTPTransport: &reverseproxy.HTTPTransport{MaxResponseHeaderSize: 9 << 20}}
		ca, err := json.Marshal(map[string]any{"provider": "file", "pem_files": []string{file}})
		if err != nil {
			t.Fatal(err)
		}
		tr.TLS = &reverseproxy.TLSConfig{CARaw: ca}
		provision(t, tr)
		return tr
	}
	writeCA(t, file)
	first := load()
	again := load()
	if again.core != first.core {
		t.Error("a reload that changes nothing gets pools of its own")
	}
	writeCA(t, file)
	second := load()
	if second.core == first.core {
		t.Error("the pools are shared although the CA has changed")
	}
	for _, old := range []*Transport{first, again} {
		if err := old.Cleanup(); err != nil {
			t.Fatal(err)
		}
	}
	if third := load(); third.core != second.core {
		t.Error("a reload that changes nothing gets pools of its own, after one that did")
	}
}

// A client certificate that Caddy manages appears at the upstream as soon as it is
// renewed, without a reload: neither connections nor TLS sessions of the one before
// are used any more.
//
// Checklist: P16.
func TestRenewedClientCertificate(t *testing.T) {
	if apart.Process(t) {
		return
	}
	const name, lifetime = "client.test", 8 * time.Second
	type shown struct {
		serial  string
		expires time.Time
		resumed bool
	}
	seen := make(chan shown, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "no certificate", http.StatusForbidden)
			return
		}
		leaf := r.TLS.PeerCertificates[0]
		seen <- shown{leaf.SerialNumber.String(), leaf.NotAfter, r.TLS.DidResume}
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	defer srv.Close()
	stopCaddy(t)
	port := freePort(t)
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"storage":%s,
		"logging":{"logs":{"default":{"level":"PANIC"}}},
		"apps":{
			"pki":{"certificate_authorities":{"local":{"install_trust":false}}},
			"tls":{"disable_storage_clean":true,"automation":{"renew_interval":"200ms","policies":[{"subjects":[%q],"issuers":[{"module":"internal","lifetime":%d}]}]}},
			"http":{"servers":{"s":{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},
				"routes":[{"handle":[{"handler":"reverse_proxy","upstreams":[{"dial":%q}],
					"transport":{"protocol":"upstreampool","max_requests":2,"tls":{"client_certificate_automate":%q,"insecure_skip_verify":true}}}]}]}}}}}`,
		storage, name, lifetime, port, srv.Listener.Addr().String(), name)
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Run(&cfg); err != nil {
		t.Fatal(err)
	}
	serials := make(map[string]bool)
	resumed := 0
	for end := time.Now().Add(2 * lifetime); time.Now().Before(end) && len(serials) < needs.InLong(3, 2); time.Sleep(20 * time.Millisecond) {
		before := managedLeaf(name)
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
		resp, _ := fetch(t, client(t, false), req)
		if resp.StatusCode != http.StatusOK {
			continue // the first certificate is on its way
		}
		s := <-seen
		if late := time.Since(s.expires); late > 0 {
			t.Fatalf("a certificate was shown %s after it expired", late)
		}
		if s.serial != before && s.serial != managedLeaf(name) {
			t.Fatalf("the certificate %s was shown (resumed: %v), although %s was there", s.serial, s.resumed, before)
		}
		serials[s.serial] = true
		if s.resumed {
			resumed++
		}
	}
	if len(serials) < 2 {
		t.Errorf("%d certificates in %s, want a renewed one: the test shows nothing", len(serials), 2*lifetime)
	}
	if resumed == 0 {
		t.Error("no session was resumed: the test shows nothing")
	}
}

// managedLeaf returns the serial number of the certificate that Caddy has for a
// name.
func managedLeaf(name string) string {
	for _, cert := range caddytls.AllMatchingCertificates(name) {
		return cert.Leaf.SerialNumber.String()
	}
	return ""
}

// writeCA writes a new self-signed certificate.
func writeCA(t *testing.T, file string) {
	t.Helper()
	cert, _ := selfSigned(t, "ca.test")
	if err := os.WriteFile(file, []byte(cert), 0o600); err != nil {
		t.Fatal(err)
	}
}

// selfSigned returns a new certificate for name, and its key, as PEM.
func selfSigned(t *testing.T, name string) (cert, key string) {
	t.Helper()
	made, err := testcert.SelfSigned(name)
	if err != nil {
		t.Fatal(err)
	}
	c, k, err := testcert.PEM(made)
	if err != nil {
		t.Fatal(err)
	}
	return string(c), string(k)
}

// tunnels is a forward proxy that notes for which hosts it was a tunnel.
func tunnels(seen *sync.Map) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			fmt.Fprintf(w, "proxied %s", r.URL)
			return
		}
		seen.Store(r.Host, true)
		up, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		c, rw, _ := http.NewResponseController(w).Hijack()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, rw); up.Close() }()
		go func() { io.Copy(c, up); c.Close() }()
	}
}

func forwardProxy(t testing.TB, seen *sync.Map) *httptest.Server {
	proxy := httptest.NewServer(tunnels(seen))
	t.Cleanup(proxy.Close)
	return proxy
}

func useProxy(tr *Transport, url string) {
	tr.NetworkProxyRaw = []byte(`{"from":"url","url":"` + url + `"}`)
}

// A forward proxy is asked for a tunnel towards https, and used as such
// towards http; connections belong to it.
func TestForwardProxy(t *testing.T) {
	srv, _ := tlsServer(t, "h2")
	var seen sync.Map
	proxy := forwardProxy(t, &seen)
	use := func(tr *Transport) { useProxy(tr, proxy.URL) }
	t.Run("https", func(t *testing.T) {
		tr := newTransport(t, func(tr *Transport) { insecure(tr); use(tr) })
		addr := srv.Listener.Addr().String()
		for range 3 {
			if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0 example.com" {
				t.Errorf("answer = %q", got)
			}
		}
		if _, ok := seen.Load(addr); !ok {
			t.Error("no tunnel")
		}
		if st := onlyPool(t, tr).snapshot(); st.Opened != 1 || st.Proxy != proxy.URL || st.Protocol != "h2" {
			t.Errorf("state = %+v", st)
		}
	})
	t.Run("http", func(t *testing.T) {
		tr := newTransport(t, func(tr *Transport) { known(tr); use(tr) })
		req := newRequest(t, "GET", "192.0.2.1:80", nil)
		if got := mustSend(t, tr, req); !strings.HasPrefix(got, "proxied http://h.test/") {
			t.Errorf("answer = %q", got)
		}
	})
	// HTTP/1 all the same: taken for HTTP/2, surplus bytes were the next answer.
	t.Run("h2c, over TLS to the proxy", func(t *testing.T) {
		needsSocketLook(t)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: srv.TLS.Certificates})
		if err != nil {
			t.Fatal(err)
		}
		written := make(chan bool, 3)
		s := serveListener(t, l, func(_ int64, c net.Conn, r *bufio.Reader) {
			for fake.ReadRequest(r) != nil {
				fake.Respond(c, "good")
				time.Sleep(20 * time.Millisecond)
				fake.Respond(c, "smuggled")
				written <- true
			}
		})
		tr := newTransport(t, func(tr *Transport) {
			insecure(tr)
			tr.Versions = []string{"h2c"}
			tr.NetworkProxyRaw = []byte(`{"from":"url","url":"https://` + s.addr() + `"}`)
		})
		for range 3 {
			req := newRequest(t, "GET", "192.0.2.1:80", nil)
			req.URL.Scheme = "http"
			if got := mustSend(t, tr, req); got != "good" {
				t.Errorf("answer = %q", got)
			}
			if st := onlyPool(t, tr).snapshot(); st.Protocol != protocolName(false) {
				t.Errorf("protocol = %s", st.Protocol)
			}
			<-written
		}
	})
	t.Run("server name by placeholder", func(t *testing.T) {
		tr := newTransport(t, func(tr *Transport) { insecure(tr); use(tr); tr.TLS.ServerName = "{http.request.host}" })
		_, _, err := send(tr, forHost(newRequest(t, "GET", srv.Listener.Addr().String(), nil), "a.test"))
		if err == nil || !strings.Contains(err.Error(), "forward proxy") {
			t.Errorf("error = %v, want it refused", err)
		}
	})
}

// A failed handshake is a failed dial: lb_retries may try another upstream.
func TestTLSErrors(t *testing.T) {
	srv, _ := tlsServer(t, "h2")
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.TLS = &reverseproxy.TLSConfig{ServerName: "a.test"} })
	_, _, err := send(tr, newRequest(t, "GET", srv.Listener.Addr().String(), nil))
	var de reverseproxy.DialError
	if !errors.As(err, &de) || !strings.Contains(err.Error(), "not a.test") {
		t.Errorf("error = %v, want the DialError of a wrong certificate", err)
	}
	eventually(t, "nothing is left", func() bool { return len(tr.core.all()) == 0 })
}

// TLS sessions are resumed, so that retiring a connection early is cheap.
func TestTLSResumption(t *testing.T) {
	var resumed []bool
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resumed = append(resumed, r.TLS.DidResume)
	}))
	srv.StartTLS()
	defer srv.Close()
	tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.MaxRequests = 1 })
	for range 3 {
		mustSend(t, tr, newRequest(t, "GET", srv.Listener.Addr().String(), nil))
	}
	if fmt.Sprint(resumed) != "[false true true]" {
		t.Errorf("resumed = %v", resumed)
	}
}
