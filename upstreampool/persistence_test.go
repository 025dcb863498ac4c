package upstreampool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// known configures a long timeout, so that tests of other things are free of
// the rules for when nothing is known.
func known(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(time.Hour) }

// script answers the i-th request (from 0) on each connection with the i-th of
// responses, and closes the connection after the last.
func script(responses ...string) func(int64, net.Conn, *bufio.Reader) {
	return func(n int64, c net.Conn, r *bufio.Reader) {
		for _, resp := range responses {
			if fake.ReadRequest(r) == nil {
				return
			}
			io.WriteString(c, strings.ReplaceAll(resp, "$n", strconv.FormatInt(n, 10)))
		}
		fake.ReadRequest(r) // stay open until the client closes
	}
}

const ok1 = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n$n"

// Checklist: P1.
func TestPersistence(t *testing.T) {
	for _, tc := range []struct {
		name, response string
		reused         bool
	}{
		{"1.1", ok1, true},
		{"1.1 close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n$n", false},
		{"1.0", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n$n", false},
		{"1.0 keep-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n$n", true},
		{"1.0 Keep-Alive in another case", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\n$n", true},
	} {
		t.Run(tc.name, func(t *testing.T) { testReused(t, tc.response, tc.reused) })
	}
}

// Checklist: P2.
func TestNothingFollowsClose(t *testing.T) {
	for _, connection := range []string{"close", "Close", "CLOSE", "keep-alive, close", "foo,close", "close, foo"} {
		t.Run(connection, func(t *testing.T) {
			testReused(t, "HTTP/1.1 200 OK\r\nConnection: "+connection+"\r\nContent-Length: 1\r\n\r\n$n", false)
		})
	}
	t.Run("on a second line", func(t *testing.T) {
		testReused(t, "HTTP/1.1 200 OK\r\nConnection: foo\r\nConnection: close\r\nContent-Length: 1\r\n\r\n$n", false)
	})
}

// testReused sends two requests to an upstream that gives response, and checks
// whether the second one came on the first connection.
func testReused(t *testing.T, response string, want bool) {
	t.Helper()
	s := serveRaw(t, script(response, response))
	tr := newTransport(t, known)
	first := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	second := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	if (first == second) != want {
		t.Errorf("connections %q and %q, want reuse %v", first, second, want)
	}
}

// Checklist: P3.
func TestOnlyCompleteResponsesReturn(t *testing.T) {
	t.Run("read to its end", func(t *testing.T) { testReused(t, ok1, true) })
	t.Run("chunked", func(t *testing.T) {
		testReused(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n$n\r\n0\r\n\r\n", true)
	})
	t.Run("no body", func(t *testing.T) {
		s := serveRaw(t, script("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n", ok1))
		tr := newTransport(t, known)
		send(tr, newRequest(t, "GET", s.addr(), nil))
		send(tr, newRequest(t, "GET", s.addr(), nil))
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
			t.Errorf("connection %s", got)
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		s := serveRaw(t, script("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", ok1))
		tr := newTransport(t, known)
		mustSend(t, tr, newRequest(t, "HEAD", s.addr(), nil))
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
			t.Errorf("connection %s", got)
		}
	})
	// Go 1.27 reads a short rest of a response that was given up, if it is there soon.
	t.Run("given up", func(t *testing.T) {
		for name, response := range map[string]string{
			"the rest never comes": "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
			"the rest is long":     "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("a", 300000),
		} {
			first, others := script(response, ok1), script(ok1)
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				if n == 1 {
					first(n, c, r)
				} else {
					others(n, c, r)
				}
			})
			tr := newTransport(t, known)
			resp, err := tr.RoundTrip(newRequest(t, "GET", s.addr(), nil))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got == "1" {
				t.Errorf("%s: a connection with an unread response was reused", name)
			}
		}
	})
	t.Run("ended by close", func(t *testing.T) {
		s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n%d", n)
		})
		tr := newTransport(t, known)
		for _, want := range []string{"1", "2"} {
			if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != want {
				t.Errorf("connection %s, want %s", got, want)
			}
		}
	})
}

// Surplus bytes are never taken for a response, wherever they hide: in a buffer
// of net/http, or in the socket after a body that was read past the buffer.
//
// Checklist: P4.
func TestSurplusBytes(t *testing.T) {
	t.Parallel()
	const smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
	for _, size := range []int{0, 1, 4000, 4096, 5000, 32 << 10, 100_000} {
		for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
			t.Run(fmt.Sprintf("body of %d, after %v", size, delay), func(t *testing.T) {
				t.Parallel()
				written := make(chan bool, 100)
				s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
					for fake.ReadRequest(r) != nil {
						good := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("g", size))
						if delay == 0 {
							io.WriteString(c, good+smuggled)
							continue
						}
						io.WriteString(c, good)
						time.Sleep(delay)
						io.WriteString(c, smuggled)
						written <- true
					}
				})
				tr := newTransport(t, known)
				for i := range 20 {
					_, body, err := send(tr, newRequest(t, "GET", s.addr(), nil))
					if err != nil {
						t.Fatal(err)
					}
					if strings.Contains(body, "smuggled") || len(body) != size {
						t.Fatalf("request %d was answered with %d bytes: %.20q", i, len(body), body)
					}
					if delay > 0 {
						<-written
						time.Sleep(5 * time.Millisecond)
					}
					if delay > 0 && i == 3 {
						break
					}
				}
			})
		}
	}
}

// A lateConn is read by a goroutine that is short of time: what it got from the socket
// is not noticed for a while.
type lateConn struct {
	*net.TCPConn
	got chan bool
}

func (c *lateConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 && strings.Contains(string(p[:n]), "smuggled") {
		c.got <- true
		time.Sleep(100 * time.Millisecond)
	}
	return n, err
}

// Nor when they are out of the socket, and not seen by anyone yet.
//
// Checklist: P4.
func TestSurplusBytesOnTheirWay(t *testing.T) {
	needsSocketLook(t)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, strconv.FormatInt(n, 10))
			time.Sleep(50 * time.Millisecond)
			fake.Respond(c, "smuggled")
		}
	})
	tr := newTransport(t, known)
	got := make(chan bool, 2)
	tr.core.h2Transport.DialContext = tr.core.dialer(func(_ context.Context, network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		if err != nil {
			return nil, err
		}
		return &lateConn{c.(*net.TCPConn), got}, nil
	})
	for _, want := range []string{"1", "2"} {
		if body := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); body != want {
			t.Errorf("answered with %q, want %q", body, want)
		}
		<-got
	}
}

// Checklist: P5.
func TestIdleConnectionsAreWatched(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"FIN", "RST", "408"} {
		t.Run(how, func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				fake.ReadRequest(r)
				fake.Respond(c, strconv.FormatInt(n, 10))
				time.Sleep(1500 * time.Millisecond) // what is closed sooner caps nothing
				switch how {
				case "RST":
					rst(c)
				case "408":
					io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
				}
			})
			tr := newTransport(t, nil)
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			p := onlyPool(t, tr)
			eventually(t, "the connection is gone", func() bool { return p.snapshot().Closes[connpool.CloseUpstream] == 1 })
			if got := mustSend(t, tr, newRequest(t, "POST", s.addr(), strings.NewReader("x"))); got != "2" {
				t.Errorf("connection %s", got)
			}
			if n := len(p.snapshot().Replays); n != 0 {
				t.Errorf("%d replays: the close was not noticed in time", n)
			}
			// The close is an observation.
			if l := p.up.H1.Limit(time.Now(), idletime.Optional{}); l.Bound != idletime.BoundEarlyClose {
				t.Errorf("limit = %v, want it capped by the close", l)
			}
		})
	}
}
