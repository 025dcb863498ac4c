package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestStoryPersistentConnections runs example/persistent-connections: its
// upstream says on which connection a request came, and with which fields.
func TestStoryPersistentConnections(t *testing.T) {
	t.Parallel()
	const folder = "persistent-connections"
	originPort, dumbPort, httpPort := freePort(t), freePort(t), freePort(t)
	env := []string{"ORIGIN_PORT=" + originPort, "DUMB_PORT=" + dumbPort, "HTTP_PORT=" + httpPort}
	player{env: env, listen: []string{originPort, dumbPort}, args: []string{buildExample(t, folder, "origin")}}.start(t)
	c := startExample(t, folder, env...)
	c.certificates(c.addr, []string{"localhost"})
	clients := map[string]*http.Client{
		"HTTP/1.1": toPort(t, c.port, func(p *http.Protocols) { p.SetHTTP1(true) }),
		"HTTP/2.0": toPort(t, c.port, func(p *http.Protocols) { p.SetHTTP2(true) }),
	}

	// ask returns the response and, from its body, where the request arrived and
	// the fields it had there.
	ask := func(t *testing.T, protocol, path string, header http.Header) (*http.Response, string, map[string]string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "https://localhost"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err := clients[protocol].Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || resp.Proto != protocol {
			t.Fatalf("%s %s, %v: %s", resp.Proto, resp.Status, err, body)
		}
		where, rest, _ := strings.Cut(string(body), "\n")
		fields := make(map[string]string)
		for line := range strings.Lines(rest) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			fields[name] = value
		}
		return resp, where, fields
	}

	t.Run("reuse", func(t *testing.T) {
		for _, test := range []struct {
			path   string
			reused bool
		}{
			{"/1.0", false},           // RFC 9112 section 9.3: closed, without the keep-alive option
			{"/1.0-keep-alive", true}, // and persistent with it
			{"/1.1", true},            // persistent by default
			{"/1.1-close", false},     // section 9.6: and not with the close option
		} {
			ask(t, "HTTP/1.1", "/1.1-close", nil) // empties the pool
			_, first, _ := ask(t, "HTTP/1.1", test.path, nil)
			_, second, _ := ask(t, "HTTP/1.1", test.path, nil)
			var c1, r1, c2, r2 int
			if _, err := fmt.Sscanf(first+" "+second, "connection %d, request %d connection %d, request %d", &c1, &r1, &c2, &r2); err != nil {
				t.Fatalf("%q, %q: %v", first, second, err)
			}
			if reused := c1 == c2 && r2 == r1+1; reused != test.reused || !reused && r2 != 1 {
				t.Errorf("%s: %s, then %s; reused: %v, want %v", test.path, first, second, reused, test.reused)
			}
		}
	})

	t.Run("fields of one connection", func(t *testing.T) {
		for protocol := range clients {
			header := http.Header{"X-End": {"1"}}
			if protocol == "HTTP/1.1" { // in HTTP/2 such a request would be malformed
				header = http.Header{"Connection": {"Keep-Alive, X-Hop"}, "Keep-Alive": {"timeout=99"}, "X-Hop": {"1"}, "X-End": {"1"}}
			}
			resp, where, fields := ask(t, protocol, "/hop-by-hop", header)
			for _, name := range []string{"Keep-Alive", "X-Hop", "Te", "Upgrade", "Proxy-Connection"} {
				if value, ok := fields[name]; ok {
					t.Errorf("%s: the upstream got %s: %s", protocol, name, value)
				}
				if value, ok := resp.Header[name]; ok {
					t.Errorf("%s: the client got %s: %s", protocol, name, value)
				}
			}
			// Caddy's own, on the first request of a connection: the upstream may
			// announce its timeout then.
			if value, ok := fields["Connection"]; ok && (value != "keep-alive" || !strings.HasSuffix(where, "request 1")) {
				t.Errorf("%s: the upstream got Connection: %s, on %s", protocol, value, where)
			}
			if value, ok := resp.Header["Connection"]; ok {
				t.Errorf("%s: the client got Connection: %s", protocol, value)
			}
			if fields["X-End"] != "1" || resp.Header.Get("X-End") != "1" {
				t.Errorf("%s: a field that is for both ends got lost: %v, %v", protocol, fields, resp.Header)
			}
		}
	})

	// RFC 2068 section 19.7.1: an old client asks for a persistent connection. The
	// dumb proxy passes that on, and so is made to promise what it cannot keep.
	t.Run("a dumb proxy", func(t *testing.T) {
		for _, test := range []struct {
			name, port, path string
			persistent       string // what the client is told
			answered         bool   // the second request
		}{
			{"the dumb proxy", dumbPort, "/1.0-keep-alive", "keep-alive", false},
			{"Caddy", httpPort, "/1.0-keep-alive", "keep-alive", true},
			{"Caddy, the dumb proxy behind it", httpPort, "/behind-dumb/1.0-keep-alive", "keep-alive", true},
		} {
			t.Run(test.name, func(t *testing.T) {
				conn, err := net.Dial("tcp", "127.0.0.1:"+test.port)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				reader := bufio.NewReader(conn)
				exchange := func(patience time.Duration) (*http.Response, error) {
					_ = conn.SetDeadline(time.Now().Add(patience))
					if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: localhost\r\nConnection: Keep-Alive\r\n\r\n", test.path); err != nil {
						return nil, err
					}
					resp, err := http.ReadResponse(reader, nil)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
					return resp, err
				}
				resp, err := exchange(20 * time.Second)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("the first request: %v, %v", resp, err)
				}
				if got := resp.Header.Get("Connection"); got != test.persistent {
					t.Errorf("Connection: %q, want %q", got, test.persistent)
				}
				if !test.answered {
					// It hangs for good: a longer wait would find the same.
					if _, err := exchange(500 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("the second request: %v, want a timeout", err)
					}
					return
				}
				if resp, err := exchange(20 * time.Second); err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("the second request: %v, %v", resp, err)
				}
			})
		}
	})
}
