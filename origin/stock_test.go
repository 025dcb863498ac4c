package origin

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// As without the wrapper: handshakes and what is no TLS at all.
func TestAsStockHandshakes(t *testing.T) {
	asStock(t, []stockCase{
		{
			name: "plain HTTP on the HTTPS port",
			run: func(t *testing.T, port int) string {
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				return ended(c)
			},
			want: `"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"`,
			log:  "http: TLS handshake error from ADDR: client sent an HTTP request to an HTTPS server",
		},
		{
			name: "neither TLS nor HTTP",
			run: func(t *testing.T, port int) string {
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				fmt.Fprint(c, "SSH-2.0-OpenSSH\r\n")
				return ended(c)
			},
			log: "http: TLS handshake error from ADDR: tls: first record does not look like a TLS handshake",
		},
		{
			name: "closing before the handshake",
			run: func(t *testing.T, port int) string {
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return ""
			},
			log: "http: TLS handshake error from ADDR: EOF",
		},
		{
			name: "no protocol in common",
			run: func(t *testing.T, port int) string {
				_, err := tls.Dial("tcp", address(port), clientTLS(stockName, "foo"))
				return fmt.Sprint(err)
			},
			want: "remote error: tls: no application protocol",
			log:  "http: TLS handshake error from ADDR: tls: client requested unsupported application protocols ([\"foo\"])",
		},
		{
			name: "no certificate",
			run: func(t *testing.T, port int) string {
				_, err := tls.Dial("tcp", address(port), clientTLS("else.stock.test", "h2"))
				return fmt.Sprint(err)
			},
			want: "remote error: tls: internal error",
			log:  "http: TLS handshake error from ADDR: no certificate available for 'else.stock.test'",
		},
	})
}

// As without the wrapper: which protocol is spoken, and what handlers see of it.
func TestAsStockProtocols(t *testing.T) {
	asStock(t, []stockCase{
		{
			name: "r.TLS on HTTP/1.1",
			run: func(t *testing.T, port int) string {
				return do(t, client(t, port, stockName, "http/1.1"), "GET", "https://"+stockName+"/", nil)
			},
			want: "200 OK " + stockName + "  tls1.3 HTTP/1.1 " + stockName + " <nil>",
		},
		{
			name: "r.TLS on HTTP/2",
			run: func(t *testing.T, port int) string {
				return do(t, client(t, port, stockName, "h2"), "GET", "https://"+stockName+"/", nil)
			},
			want: "200 OK " + stockName + " h2 tls1.3 HTTP/2.0 " + stockName + " <nil>",
		},
		{
			name: "no ALPN is HTTP/1.1",
			run: func(t *testing.T, port int) string {
				c := dial(t, port, stockName)
				fmt.Fprintf(c, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", stockName)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return err.Error()
				}
				body, _ := io.ReadAll(resp.Body)
				return string(body)
			},
			want: stockName + "  tls1.3 HTTP/1.0 " + stockName,
		},
		{
			name:   "HTTP/1.1 only",
			server: `"protocols":["h1"],`,
			run: func(t *testing.T, port int) string {
				_, err := tls.Dial("tcp", address(port), clientTLS(stockName, "h2"))
				return do(t, client(t, port, stockName, "h2"), "GET", "https://"+stockName+"/", nil) + " " + fmt.Sprint(err)
			},
			want: "200 OK " + stockName + " http/1.1 tls1.3 HTTP/1.1 " + stockName + " <nil> remote error: tls: no application protocol",
			log:  "http: TLS handshake error from ADDR: tls: client requested unsupported application protocols ([\"h2\"])",
		},
		{
			name:   "HTTP/2 only",
			server: `"protocols":["h2"],`,
			run: func(t *testing.T, port int) string {
				return do(t, client(t, port, stockName, "h2"), "GET", "https://"+stockName+"/", nil)
			},
			want: "200 OK " + stockName + " h2 tls1.3 HTTP/2.0 " + stockName + " <nil>",
		},
		{
			name:   "HTTP/2 only, and a client that knows HTTP/1.1 alone",
			server: `"protocols":["h2"],`,
			run: func(t *testing.T, port int) string {
				c := dial(t, port, stockName, "http/1.1") // which Go lets in without ALPN
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", stockName)
				return ended(c)
			},
			want: `""`,
		},
	})
}

// As without the wrapper: every limit of time.
func TestAsStockTimeouts(t *testing.T) {
	asStock(t, []stockCase{
		{
			name:   "time for a handshake",
			server: `"read_header_timeout":"1s",`,
			run: func(t *testing.T, port int) string {
				before := time.Now()
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(3 * limit))
				start := time.Now()
				if got := ended(c); got != `""` {
					return got // proxy_protocol has a limit of its own
				}
				return took(before, start)
			},
			want: "in time",
			log:  "http: TLS handshake error from ADDR: read tcp ADDR->ADDR: i/o timeout",
		},
		{
			name:   "time for a header",
			server: `"read_header_timeout":"1s",`,
			run: func(t *testing.T, port int) string {
				heads := []string{"", "GET", "GET / HTTP/1.1\r\nHost: "}
				out := make([]string, len(heads))
				var all sync.WaitGroup
				for i, sent := range heads {
					all.Go(func() {
						before := time.Now()
						c, err := tryDial(t, port, stockName, "http/1.1")
						if err != nil {
							out[i] = overdue(err)
							return
						}
						start := time.Now()
						_, _ = io.WriteString(c, sent)
						out[i] = ended(c) + " " + took(before, start)
					})
				}
				all.Wait()
				return strings.Join(out, ", ")
			},
		},
		{
			name:   "time for a body",
			server: `"read_timeout":"1s",`,
			run: func(t *testing.T, port int) string {
				before := time.Now()
				c, err := tryDial(t, port, stockName, "http/1.1")
				if err != nil {
					return overdue(err)
				}
				fmt.Fprintf(c, "POST /upload HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\n12345", stockName)
				start := time.Now()
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return overdue(err)
				}
				// reverse_proxy says 504 or 499, as it happens
				return fmt.Sprint(resp.StatusCode >= 499, " ", took(before, start))
			},
		},
		{
			name:   "idle HTTP/1.1",
			server: `"idle_timeout":"1s",`,
			run: func(t *testing.T, port int) string {
				c := dial(t, port, stockName, "http/1.1")
				before := time.Now()
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", stockName)
				r := bufio.NewReader(c)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					return err.Error()
				}
				_, _ = io.ReadAll(resp.Body)
				start := time.Now()
				return ended(r) + " " + took(before, start)
			},
			want: `"" in time`,
		},
		{
			name:   "idle HTTP/2",
			server: `"idle_timeout":"1s",`,
			run: func(t *testing.T, port int) string {
				h := dialH2(t, port, stockName)
				before := time.Now()
				if err := h.Get(1, stockName); err != nil {
					return overdue(err)
				}
				answer, err := h.Response(1)
				if err != nil {
					return overdue(err)
				}
				start := time.Now()
				return answer.PseudoValue("status") + " " + goAway(h) + " " + took(before, start)
			},
			want: "200 NO_ERROR in time",
		},
	})
}

// As without the wrapper: much traffic, and other protocols inside.
func TestAsStockTraffic(t *testing.T) {
	asStock(t, []stockCase{
		{
			name: "WebSocket",
			run: func(t *testing.T, port int) string {
				c := dial(t, port, stockName, "http/1.1")
				fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", stockName)
				r := bufio.NewReader(c)
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					return err.Error()
				}
				out := resp.Status
				for range 3 {
					fmt.Fprint(c, "ping")
					buf := make([]byte, 4)
					_, err := io.ReadFull(r, buf)
					out += fmt.Sprintf(" %s %v", buf, err)
				}
				return out
			},
			want: "101 Switching Protocols ping <nil> ping <nil> ping <nil>",
		},
		{
			name: "large uploads and downloads",
			run: func(t *testing.T, port int) (out string) {
				for _, alpn := range []string{"http/1.1", "h2"} {
					c := client(t, port, stockName, alpn)
					out += do(t, c, "POST", "https://"+stockName+"/upload", bytes.NewReader(make([]byte, large))) + ", "
					out += do(t, c, "GET", "https://"+stockName+"/download", nil) + "; "
				}
				return out
			},
			want: strings.Repeat(fmt.Sprintf("200 OK %d <nil> <nil>, 200 OK %d bytes <nil>; ", large, large), 2),
		},
		{
			name: "many requests on one connection",
			run: func(t *testing.T, port int) (out string) {
				for _, alpn := range []string{"http/1.1", "h2"} {
					c, n := client(t, port, stockName, alpn), 0
					for range 200 {
						if strings.HasPrefix(do(t, c, "GET", "https://"+stockName+"/", nil), "200 ") {
							n++
						}
					}
					out += fmt.Sprint(n, " ")
				}
				return out
			},
			want: "200 200 ",
		},
	})
}

// goAway reads frames up to GOAWAY and returns its code.
func goAway(h *h2conn) string {
	for {
		frame, err := h.ReadFrame()
		if err != nil {
			return err.Error()
		}
		if frame, ok := frame.(*http2.GoAwayFrame); ok {
			return frame.ErrCode.String()
		}
	}
}

// HTTP/2 clients are told when a config is replaced, and when Caddy stops; a
// request that runs is finished.
func TestGoAway(t *testing.T) {
	const name = "a.goaway.test"
	tlsApp := testcaddy.TLSApp(t, `{}`, []string{name})
	ports := []int{freePort(t), freePort(t)}
	servers := func(body string) []string {
		routes := `"routes":[{"handle":[{"handler":"static_response","body":"` + body + `"}]}]`
		return []string{serverJSON(ports[0], withoutOrigin+routes), serverJSON(ports[1], withOrigin+routes)}
	}
	for _, end := range []struct {
		what string
		do   func()
	}{
		{"reload", func() { start(t, tlsApp, servers("two")...) }},
		{"stop", func() {
			if err := caddy.Stop(); err != nil {
				t.Error(err)
			}
		}},
	} {
		start(t, tlsApp, servers("one")...)
		var open []*h2conn
		for _, port := range ports {
			h := dialH2(t, port, name)
			h.get(1, name)
			if status := h.status(1); status != "200" {
				t.Errorf("status %s", status)
			}
			open = append(open, h)
		}
		end.do()
		for i, h := range open {
			if code := goAway(h); code != "NO_ERROR" {
				t.Errorf("%s, server %d: %s, want GOAWAY", end.what, i, code)
			}
		}
	}
}
