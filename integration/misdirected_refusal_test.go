package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// backend counts what reaches it.
type backend struct {
	mu   sync.Mutex
	seen []string
	addr string
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: ln.Addr().String()}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.seen = append(b.seen, r.Method+" "+r.URL.Path)
		b.mu.Unlock()
		if r.Header.Get("Upgrade") == "websocket" {
			conn, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			buf.Flush()
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", r.Method, len(body))
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	return b
}

// take returns what was seen since the last call.
func (b *backend) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.seen
	b.seen = nil
	return seen
}

// TestRefusedPostReachesNoBackend: the client may repeat any method, since nothing of it was processed.
//
// Checklist: M4.
func TestRefusedPostReachesNoBackend(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, strictOff, sites("scope sni", b.addr), siteNames)
	for _, protocol := range protocols {
		for _, size := range []int{10, 1 << 20} {
			post := ask{method: "POST", authority: "post.x.test", target: "/order", body: strings.Repeat("x", size)}
			if protocol == "h2" && size > 16384 {
				continue // the client here sends a body as one frame
			}
			conn := dialers[protocol](t, c.addr, clientTLS("a.x.test"))
			if got := conn.do(post); got.status != 421 && !(size > 10 && got.reset != "") {
				t.Errorf("%s: %d bytes over the wrong connection: %v, want 421", protocol, size, got)
			}
			conn.close()
			if seen := b.take(); len(seen) != 0 {
				t.Errorf("%s: the backend saw %q", protocol, seen)
			}
			conn = dialers[protocol](t, c.addr, clientTLS("post.x.test"))
			if got := conn.do(post); got.body != fmt.Sprintf("POST %d", size) {
				t.Errorf("%s: %d bytes over the right connection: %v", protocol, size, got)
			}
			conn.close()
			if seen := b.take(); len(seen) != 1 {
				t.Errorf("%s: the backend saw %q, want one request", protocol, seen)
			}
		}
	}
}

// TestRefusalLeavesConnectionOpen: a refusal is about one request, not about its connection.
//
// Checklist: M5.
func TestRefusalLeavesConnectionOpen(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, protocol := range protocols {
		conn := dialers[protocol](t, c.addr, clientTLS("a.x.test"))
		for i, step := range []struct {
			host string
			want int
		}{{"a.x.test", 200}, {"b.x.test", 421}, {"a.x.test", 200}, {"a x", 400}, {"a.x.test", 200}} {
			if protocol == "h3" && step.want == 400 {
				continue // quic-go's client refuses to send it
			}
			got := conn.do(ask{authority: step.host})
			if protocol == "h1" && step.want == 400 {
				if got.status != 400 {
					t.Errorf("%s, request %d: %v, want 400", protocol, i, got)
				}
				break // net/http's own, which closes
			}
			if got.status != step.want && !(step.want == 400 && got.reset != "") {
				t.Errorf("%s, request %d: %v, want %d", protocol, i, got, step.want)
			}
		}
		if conn, ok := conn.(*h2); ok && conn.goAway {
			t.Error("h2: GOAWAY")
		}
	}
}

// TestRefusedBodyIsNoRequest: a body that was not read is no request.
//
// Checklist: M6.
func TestRefusedBodyIsNoRequest(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	c := startCaddy(t, strictOff, sites("scope sni", b.addr), siteNames)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: post.x.test\r\n\r\n"
	for name, text := range map[string]string{
		"length":     fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.x.test\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled),
		"chunked":    fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.x.test\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled),
		"large":      fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.x.test\r\nContent-Length: %d\r\n\r\n%s", 4<<20, strings.Repeat(smuggled, 4<<20/len(smuggled)+1)[:4<<20]),
		"unfinished": "POST / HTTP/1.1\r\nHost: a.x.test\r\nContent-Length: 1000\r\n\r\n" + smuggled,
	} {
		conn := dialH1(t, c.addr, clientTLS("post.x.test")).(*h1)
		go func() {
			_, _ = io.WriteString(conn.conn, text+"GET /next HTTP/1.1\r\nHost: post.x.test\r\nConnection: close\r\n\r\n")
		}()
		patience := 20 * time.Second
		if name == "unfinished" { // the connection stays open
			patience = 3 * time.Second
		}
		_ = conn.conn.SetReadDeadline(time.Now().Add(patience))
		got, _ := io.ReadAll(conn.reader)
		if name != "large" && name != "unfinished" && !strings.HasPrefix(string(got), "HTTP/1.1 421 ") {
			t.Errorf("%s: answer %.100q, want 421", name, got)
		}
		for _, seen := range b.take() {
			if seen != "GET /next" {
				t.Errorf("%s: the backend saw %q", name, seen)
			}
		}
		conn.close()
	}
}

// TestRefusalFields: how a refusal looks, and what it does not do.
//
// Checklist: M19, M20, M22.
func TestRefusalFields(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", "")+`
errors.x.test {
	misdirected {
		error_routes
	}
	respond "ok"
	handle_errors {
		respond "sorry: {http.misdirected.sni} {http.misdirected.host} {http.misdirected.reason}" {err.status_code}
	}
}
`, siteNames)
	for _, protocol := range protocols {
		asked := 0
		config := clientTLS("a.x.test")
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked++
			return new(tls.Certificate), nil
		}
		conn := dialers[protocol](t, c.addr, config)
		if got := conn.do(ask{authority: "a.x.test"}); got.header.Get("Alt-Svc") == "" && protocol != "h3" {
			t.Errorf("%s: no Alt-Svc in a 200, so this test shows nothing", protocol)
		}
		for _, host := range []string{"b.x.test", "m.x.test", "errors.x.test"} {
			got := conn.do(ask{authority: host})
			if got.status != 421 || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Alt-Svc") != "" {
				t.Errorf("%s, %s: %v with Cache-Control %q, Alt-Svc %q", protocol, host, got, got.header.Get("Cache-Control"), got.header.Get("Alt-Svc"))
			}
			if host == "errors.x.test" && got.body != "sorry: a.x.test errors.x.test other_host" {
				t.Errorf("%s: handle_errors answered %v", protocol, got)
			}
		}
		if asked != 0 {
			t.Errorf("%s: a client certificate was asked for %d times", protocol, asked)
		}
	}
	var lines []map[string]any
	poll.Succeed(c.t, "a log line for each of 9 refusals", func() error {
		if lines = c.logged("misdirected request"); len(lines) != 9 {
			return fmt.Errorf("%d lines", len(lines))
		}
		return nil
	})
	for _, line := range lines {
		if line["sni"] != "a.x.test" || line["reason"] == "" || line["site"] != line["host"] || line["remote_addr"] == "" || line["level"] != "debug" {
			t.Errorf("log line %v", line)
		}
	}
}
