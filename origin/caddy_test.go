package origin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) int { return testcaddy.FreePort(t) }

// serverJSON is the config of a server on a port; more is JSON text.
func serverJSON(port int, more string) string {
	return fmt.Sprintf(`{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},%s}`, port, more)
}

// start runs Caddy in this process, for as long as the test or until the next
// start, with all of its logs in a file.
func start(t testing.TB, tlsApp string, servers ...string) (log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	var list []string
	for i, server := range servers {
		list = append(list, fmt.Sprintf(`"srv%d":%s`, i, server))
	}
	cfg := testcaddy.Config(t, `{`+tlsApp+`,"http":{"grace_period":"5s","servers":{`+strings.Join(list, ",")+`}}}`, log)
	if err := caddy.Run(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return log
}

// logged returns what a logger wrote: level, message and fields.
func logged(t testing.TB, file, logger string) (lines []map[string]any) {
	t.Helper()
	log, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for entry := range bytes.Lines(log) {
		if !bytes.HasSuffix(entry, []byte("\n")) {
			break // it is being written
		}
		var line map[string]any
		if err := json.Unmarshal(entry, &line); err != nil {
			t.Fatal(err)
		}
		if line["logger"] == logger {
			lines = append(lines, line)
		}
	}
	return lines
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// dial opens a TLS connection to a port.
func dial(t testing.TB, port int, sni string, alpn ...string) *tls.Conn {
	t.Helper()
	c, err := tryDial(t, port, sni, alpn...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tryDial is dial where that may fail.
func tryDial(t testing.TB, port int, sni string, alpn ...string) (*tls.Conn, error) {
	c, err := tls.Dial("tcp", address(port), clientTLS(sni, alpn...))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, c.SetDeadline(time.Now().Add(30 * time.Second))
}

func clientTLS(sni string, alpn ...string) *tls.Config {
	return &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: alpn}
}

// client returns a client that connects to a port whatever the host, by HTTP/1.1
// or HTTP/2.
func client(t testing.TB, port int, sni, alpn string) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address(port))
		},
		TLSClientConfig:   clientTLS(sni),
		ForceAttemptHTTP2: alpn == "h2",
	}
	if alpn == "h2" {
		transport.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"}
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// An h2conn is a client's end of an HTTP/2 connection that shows every frame.
type h2conn struct {
	*h2.Peer
	t testing.TB
}

func dialH2(t testing.TB, port int, sni string) *h2conn {
	t.Helper()
	c := dial(t, port, sni, "h2")
	if proto := c.ConnectionState().NegotiatedProtocol; proto != "h2" {
		t.Fatalf("ALPN selected %q", proto)
	}
	return openH2(t, c)
}

func openH2(t testing.TB, c *tls.Conn) *h2conn {
	t.Helper()
	peer, err := h2.Client(c)
	if err != nil {
		t.Fatal(err)
	}
	return &h2conn{peer, t}
}

// get sends a request for / on a stream.
func (h *h2conn) get(stream uint32, host string) {
	h.t.Helper()
	if err := h.Get(stream, host); err != nil {
		h.t.Fatal(err)
	}
}

// status reads frames up to the answer on a stream.
func (h *h2conn) status(stream uint32) string {
	h.t.Helper()
	answer, err := h.Response(stream)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer.PseudoValue("status")
}

// origins reads the first frames: SETTINGS and an ORIGIN frame.
func (h *h2conn) origins() []string {
	h.t.Helper()
	first, err := h.ReadFrame()
	if err != nil {
		h.t.Fatal(err)
	}
	if _, ok := first.(*http2.SettingsFrame); !ok {
		h.t.Fatalf("the first frame is %v, want SETTINGS", first)
	}
	second, err := h.ReadFrame()
	if err != nil {
		h.t.Fatal(err)
	}
	return decodeFrame(h.t, second)
}

// noOrigins asks for something, and finds no ORIGIN frame in front of the answer.
func (h *h2conn) noOrigins(host string) {
	h.t.Helper()
	h.get(1, host)
	for {
		frame, err := h.ReadFrame()
		if err != nil {
			h.t.Fatal(err)
		}
		switch frame.Header().Type {
		case http2.FrameHeaders:
			return
		case frameType:
			h.t.Fatalf("an ORIGIN frame: %v", decodeFrame(h.t, frame))
		}
	}
}

// backend is an upstream with large bodies and a WebSocket, or what looks like
// one.
func backend(t testing.TB) (address string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, " ", err)
	})
	mux.HandleFunc("/download", func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<16)
		for range large / len(chunk) {
			_, _ = w.Write(chunk)
		}
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

const large = 4 << 20

// hostRoutes is a route for each name that answers with what r.TLS and the request
// line are.
func hostRoutes(names ...string) string {
	var list []string
	for _, name := range names {
		list = append(list, `{"match":[{"host":["`+name+`"]}],"terminal":true,"handle":[{"handler":"static_response","body":"{http.request.tls.server_name} {http.request.tls.proto} {http.request.tls.version} {http.request.proto} {http.request.host}"}]}`)
	}
	return strings.Join(list, ",")
}

const withOrigin = `"listener_wrappers":[{"wrapper":"origin"}],"tls_connection_policies":[{}],"strict_sni_host":false,`
const withoutOrigin = `"tls_connection_policies":[{}],"strict_sni_host":false,`
