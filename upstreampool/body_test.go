package upstreampool

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// A body of unknown length is read before an HTTP/1.0 upstream is dialed. When that
// refuses, lb_retries sends the whole of it elsewhere, chunked or not.
//
// Checklist: P18.
func TestRefusedDialLeavesTheBodyToRetries(t *testing.T) {
	gone := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		if fake.ReadRequest(r) != nil {
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	echo := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		for req := fake.ReadRequest(r); req != nil; req = fake.ReadRequest(r) {
			b, _ := io.ReadAll(req.Body)
			fake.Respond(c, string(b), "X-Encoding: "+strings.Join(req.TransferEncoding, ","))
		}
	})
	stopCaddy(t)
	url := runCaddy(t, freePort(t), "", `,"load_balancing":{"retries":1,"selection_policy":{"policy":"round_robin"}}`, gone.addr(), echo.addr())
	cl := client(t, false)
	for range 2 { // one to each
		req, _ := http.NewRequest("GET", url, nil)
		if resp, _ := fetch(t, cl, req); resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	gone.Close()
	body := strings.Repeat("0123456789", 5000)
	for range 4 { // two of them try the one that is gone first
		req, _ := http.NewRequest("POST", url, io.NopCloser(strings.NewReader(body)))
		resp, got := fetch(t, cl, req)
		if resp.StatusCode != http.StatusOK || got != body {
			t.Errorf("status %d, %d of %d bytes arrived", resp.StatusCode, len(got), len(body))
		}
		if e := resp.Header.Get("X-Encoding"); e != "chunked" {
			t.Errorf("transfer encoding = %q: the server of HTTP/1.1 gets what the client sent", e)
		}
	}
}
