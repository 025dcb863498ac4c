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

// lb_retry_match may send a request elsewhere after its body was read. What gets there
// is all of it, if the request may be repeated, or nothing: the rest of a body without
// Content-Length would look like a whole one.
func TestBodyElsewhereIsWholeOrNone(t *testing.T) {
	for _, tc := range []struct {
		name, answer string // of the first upstream; "": none
		method       string
		passedOn     bool
	}{
		{"no answer", "", "PUT", true},
		{"no answer", "", "POST", false},
		{"an answer that the matcher knows", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "PUT", false},
		{"an answer that the matcher knows", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "POST", false},
	} {
		t.Run(tc.name+" "+tc.method, func(t *testing.T) {
			sick := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
				if req := fake.ReadRequest(r); req != nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(c, tc.answer)
				}
			})
			arrived := make(chan string, 1)
			well := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
				for req := fake.ReadRequest(r); req != nil; req = fake.ReadRequest(r) {
					if b, err := io.ReadAll(req.Body); err == nil && req.Method != "GET" {
						arrived <- string(b)
					}
					fake.Respond(c, "")
				}
			})
			stopCaddy(t)
			url := runCaddy(t, freePort(t), "", `,"load_balancing":{"retries":1,"selection_policy":{"policy":"first"},
				"retry_match":[{"method":["PUT","POST"]},{"expression":"{http.reverse_proxy.status_code} == 503"}]},
				"health_checks":{"passive":{"fail_duration":"1m","unhealthy_status":[503]}}`, sick.addr(), well.addr())
			const body = "all of it"
			req, _ := http.NewRequest(tc.method, url, io.NopCloser(strings.NewReader(body)))
			resp, _ := fetch(t, client(t, false), req)
			want := http.StatusBadGateway
			if tc.passedOn {
				want = http.StatusOK
			}
			if resp.StatusCode != want {
				t.Errorf("status %d, want %d", resp.StatusCode, want)
			}
			select {
			case got := <-arrived:
				if !tc.passedOn || got != body {
					t.Errorf("%q arrived elsewhere", got)
				}
			default:
				if tc.passedOn {
					t.Error("nothing arrived elsewhere")
				}
			}
			req, _ = http.NewRequest("GET", url, nil)
			if resp, _ := fetch(t, client(t, false), req); resp.StatusCode != http.StatusOK {
				t.Errorf("status %d afterwards, want 200: the other upstream did nothing wrong", resp.StatusCode)
			}
		})
	}
}
