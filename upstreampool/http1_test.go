package upstreampool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// known configures a long timeout, so that tests of other things are free of
// the rules for when nothing is known.
func known(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(time.Hour) }

// script answers the i-th request (from 0) on each connection with the i-th of
// responses, and closes the connection after the last.
func script(responses ...string) func(int64, net.Conn, *bufio.Reader) {
	return func(n int64, c net.Conn, r *bufio.Reader) {
		for _, resp := range responses {
			if readRequest(r) == nil {
				return
			}
			io.WriteString(c, strings.ReplaceAll(resp, "$n", strconv.FormatInt(n, 10)))
		}
		readRequest(r) // stay open until the client closes
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
			readRequest(r)
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
	const smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
	for _, size := range []int{0, 1, 4000, 4096, 5000, 32 << 10, 100_000} {
		for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
			t.Run(fmt.Sprintf("body of %d, after %v", size, delay), func(t *testing.T) {
				t.Parallel()
				written := make(chan bool, 100)
				s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
					for readRequest(r) != nil {
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
		for readRequest(r) != nil {
			respond(c, strconv.FormatInt(n, 10))
			time.Sleep(50 * time.Millisecond)
			respond(c, "smuggled")
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
	for _, how := range []string{"FIN", "RST", "408"} {
		t.Run(how, func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				respond(c, strconv.FormatInt(n, 10))
				time.Sleep(500 * time.Millisecond)
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

// dieOnSecond answers the first request of a connection and dies, after reading
// it, on the second. It counts what it reads by method.
func dieOnSecond(seen *atomic.Int64, how func(net.Conn)) func(int64, net.Conn, *bufio.Reader) {
	return func(n int64, c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			if readRequest(r) == nil {
				return
			}
			seen.Add(1)
			if i > 0 {
				how(c)
				return
			}
			respond(c, strconv.FormatInt(n, 10))
		}
	}
}

// Checklist: P6.
func TestNoReplayOfWhatMayHaveBeenSeen(t *testing.T) {
	for name, how := range map[string]func(net.Conn){"FIN": func(net.Conn) {}, "RST": rst} {
		for _, method := range []string{"POST", "PATCH", "LOCK"} {
			t.Run(name+" "+method, func(t *testing.T) {
				var seen atomic.Int64
				s := serveRaw(t, dieOnSecond(&seen, how))
				tr := newTransport(t, known)
				mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
				_, _, err := send(tr, newRequest(t, method, s.addr(), strings.NewReader("x")))
				if err == nil {
					t.Fatal("no error")
				}
				var de reverseproxy.DialError
				if errors.As(err, &de) {
					t.Errorf("%v is a DialError, which reverse_proxy would retry", err)
				}
				if n := seen.Load(); n != 2 {
					t.Errorf("the upstream saw %d requests, want the GET and one %s", n, method)
				}
			})
		}
	}
}

func TestReplayOfIdempotentRequests(t *testing.T) {
	for name, how := range map[string]func(net.Conn){"FIN": func(net.Conn) {}, "RST": rst} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE"} {
			t.Run(name+" "+method, func(t *testing.T) {
				var seen atomic.Int64
				bodies := make(chan string, 10)
				s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
					for i := 0; ; i++ {
						req := readRequest(r)
						if req == nil {
							return
						}
						b, _ := io.ReadAll(req.Body)
						bodies <- string(b)
						seen.Add(1)
						if i > 0 {
							how(c)
							return
						}
						respond(c, "")
					}
				})
				tr := newTransport(t, known)
				mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
				<-bodies
				var body io.Reader
				want := ""
				if method == "PUT" || method == "DELETE" {
					want = strings.Repeat("0123456789", replay.MaxKept/10)
					body = io.NopCloser(strings.NewReader(want))
				}
				mustSend(t, tr, newRequest(t, method, s.addr(), body))
				if a, b := <-bodies, <-bodies; a != want || b != want {
					t.Errorf("bodies of %d and %d bytes arrived, want %d twice", len(a), len(b), len(want))
				}
				if st := onlyPool(t, tr).snapshot(); st.Replays[replay.NoResponse] != 1 {
					t.Errorf("replays = %v", st.Replays)
				}
			})
		}
	}
}

// Requests of HTTP/3 clients have a body of unknown length, even GETs, which is
// empty then.
func TestReplayOfGETWithBodyOfUnknownLength(t *testing.T) {
	var seen atomic.Int64
	s := serveRaw(t, dieOnSecond(&seen, func(net.Conn) {}))
	tr := newTransport(t, nil) // also while nothing is known
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	time.Sleep(550 * time.Millisecond) // a POST takes none that was idle for 500 ms
	body := &countingBody{Reader: strings.NewReader("")}
	req := newRequest(t, "GET", s.addr(), body)
	req.ContentLength = -1
	if got := mustSend(t, tr, req); got != "2" {
		t.Errorf("connection %s", got)
	}
	if seen.Load() != 3 || body.closes() != 1 {
		t.Errorf("%d requests were seen, the body was closed %d times; want 3 and 1", seen.Load(), body.closes())
	}
}

// Checklist: P7.
func TestNoReplayOfAReplay(t *testing.T) {
	var seen atomic.Int64
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for i := 0; readRequest(r) != nil; i++ {
			seen.Add(1)
			if n > 1 || i > 0 {
				return
			}
			respond(c, "")
		}
	})
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	if _, _, err := send(tr, newRequest(t, "GET", s.addr(), nil)); err == nil {
		t.Error("no error")
	}
	if n := seen.Load(); n != 3 {
		t.Errorf("the upstream saw %d requests, want the first, the second and its one replay", n)
	}
}

// A request whose body is too large to be kept is not replayed half.
func TestNoReplayOfLargeBodies(t *testing.T) {
	var seen atomic.Int64
	s := serveRaw(t, dieOnSecond(&seen, func(net.Conn) {}))
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	body := &countingBody{Reader: strings.NewReader(strings.Repeat("a", replay.MaxKept+1))}
	req := newRequest(t, "PUT", s.addr(), body)
	req.ContentLength = replay.MaxKept + 1
	if _, _, err := send(tr, req); err == nil {
		t.Error("no error")
	}
	if n := seen.Load(); n != 2 {
		t.Errorf("the upstream saw %d requests", n)
	}
	if body.closes() != 1 {
		t.Errorf("the body was closed %d times", body.closes())
	}
}

// Checklist: P9.
func TestEarlyResponse(t *testing.T) {
	stopped := make(chan int64, 1)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if n > 1 {
			respond(c, strconv.FormatInt(n, 10))
			readRequest(r)
			return
		}
		io.CopyN(io.Discard, req.Body, 1000)
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
		read, _ := io.Copy(io.Discard, req.Body)
		stopped <- read
	})
	tr := newTransport(t, known)
	pr, pw := io.Pipe()
	go func() {
		for {
			if _, err := pw.Write(make([]byte, 1000)); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	status, _, err := send(tr, newRequest(t, "POST", s.addr(), pr))
	if err != nil || status != http.StatusRequestEntityTooLarge {
		t.Fatalf("status %d, %v; want 413", status, err)
	}
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("the upload goes on")
	}
	if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got == "1" {
		t.Error("the connection was reused")
	}
}

// Checklist: P10.
func TestBrokenResponses(t *testing.T) {
	for _, tc := range []struct{ name, response string }{
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"},
		{"length is text", "HTTP/1.1 200 OK\r\nContent-Length: one\r\n\r\na"},
		{"unknown transfer coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: foo\r\n\r\na"},
		{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"},
		{"bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"},
		{"chunked without its end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
		{"truncated header", "HTTP/1.1 200 OK\r\nContent-Le"},
		{"no HTTP", "hello\r\n\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				readRequest(r)
				if n > 1 {
					respond(c, "fine")
					return
				}
				io.WriteString(c, tc.response)
			})
			tr := newTransport(t, known)
			if status, body, err := send(tr, newRequest(t, "GET", s.addr(), nil)); err == nil {
				t.Errorf("status %d, body %q; want an error", status, body)
			}
			if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "fine" || s.conns.Load() != 2 {
				t.Errorf("the next request: %q on connection %d", got, s.conns.Load())
			}
		})
	}
	t.Run("length and chunked", func(t *testing.T) {
		// RFC 9112 section 6.3: Transfer-Encoding wins, or it is an error; in no
		// case does the length delimit the body.
		s := serveRaw(t, script("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n"))
		if _, body, err := send(newTransport(t, known), newRequest(t, "GET", s.addr(), nil)); err == nil && body != "abcdef" {
			t.Errorf("body = %q", body)
		}
	})
}

// Checklist: P18.
func TestNoChunkedToHTTP10(t *testing.T) {
	type got struct {
		te, cl string
		body   int
	}
	requests := make(chan got, 4)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		requests <- got{strings.Join(req.TransferEncoding, ","), req.Header.Get("Content-Length"), len(b)}
		io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	<-requests
	unknown := func(n int) *http.Request {
		req := newRequest(t, "POST", s.addr(), &countingBody{Reader: strings.NewReader(strings.Repeat("a", n))})
		req.ContentLength = -1
		return req
	}
	for _, n := range []int{0, 1, replay.MaxKept} {
		req := unknown(n)
		mustSend(t, tr, req)
		if g := <-requests; g.te != "" || g.cl != strconv.Itoa(n) || g.body != n {
			t.Errorf("body of %d: %+v", n, g)
		}
		// net/http closes the others.
		if closes := req.Body.(*countingBody).closes(); n == 0 && closes != 1 {
			t.Errorf("an empty body was closed %d times", closes)
		}
	}
	_, _, err := send(tr, unknown(replay.MaxKept+1))
	var he caddyhttp.HandlerError
	if !errors.As(err, &he) || he.StatusCode != http.StatusLengthRequired {
		t.Errorf("error = %v, want 411", err)
	}
}

// The length is known when the request is sent again, too.
//
// Checklist: P18.
func TestReplayToHTTP10(t *testing.T) {
	for _, body := range []string{"", "x=1"} {
		t.Run(fmt.Sprintf("%q", body), func(t *testing.T) {
			lengths := make(chan string, 3)
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				for i := 0; ; i++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					lengths <- req.Header.Get("Content-Length") + strings.Join(req.TransferEncoding, ",")
					if n == 1 && i == 1 {
						return // no answer
					}
					io.WriteString(c, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n")
				}
			})
			tr := newTransport(t, known)
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			<-lengths
			req := newRequest(t, "PUT", s.addr(), io.NopCloser(strings.NewReader(body)))
			req.ContentLength = -1
			mustSend(t, tr, req)
			for _, attempt := range []string{"first", "second"} {
				if got, want := <-lengths, strconv.Itoa(len(body)); got != want {
					t.Errorf("%s attempt: length %q, want %q", attempt, got, want)
				}
			}
		})
	}
}

// Checklist: P19.
func TestMisdirectedIsTriedOnceMore(t *testing.T) {
	const misdirected = "HTTP/1.1 421 Misdirected Request\r\nContent-Length: 3\r\n\r\nno!"
	t.Run("on a reused connection", func(t *testing.T) {
		bodies := make(chan string, 10)
		s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
			for i := 0; ; i++ {
				req := readRequest(r)
				if req == nil {
					return
				}
				b, _ := io.ReadAll(req.Body)
				bodies <- string(b)
				if i > 0 {
					io.WriteString(c, misdirected)
				} else {
					respond(c, strconv.FormatInt(n, 10))
				}
			}
		})
		for _, method := range []string{"GET", "POST"} {
			tr := newTransport(t, known)
			first := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			<-bodies
			got := mustSend(t, tr, newRequest(t, method, s.addr(), strings.NewReader("body")))
			if got == first {
				t.Errorf("%s was answered by the same connection", method)
			}
			if a, b := <-bodies, <-bodies; a != "body" || b != "body" {
				t.Errorf("bodies %q and %q", a, b)
			}
		}
	})
	t.Run("then passed on", func(t *testing.T) {
		var seen atomic.Int64
		s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
			for i := 0; readRequest(r) != nil; i++ {
				if seen.Add(1) > 1 {
					io.WriteString(c, misdirected)
				} else {
					respond(c, "")
				}
			}
		})
		tr := newTransport(t, known)
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
		status, body, err := send(tr, newRequest(t, "GET", s.addr(), nil))
		if status != 421 || body != "no!" || err != nil || seen.Load() != 3 {
			t.Errorf("status %d, body %q, error %v after %d requests; want 421 after 3", status, body, err, seen.Load())
		}
	})
	t.Run("passed on when there is no other connection", func(t *testing.T) {
		s := serveRaw(t, script(ok1, misdirected))
		tr := newTransport(t, known)
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
		s.Close()
		if status, body, err := send(tr, newRequest(t, "GET", s.addr(), nil)); status != 421 || body != "no!" {
			t.Errorf("status %d, body %q, error %v; want the 421", status, body, err)
		}
	})
	t.Run("in a full pool", func(t *testing.T) {
		s := serveRaw(t, script(ok1, misdirected))
		tr := newTransport(t, func(tr *Transport) { known(tr); tr.MaxConnsPerHost = 1 })
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "2" {
			t.Errorf("connection %s", got)
		}
	})
}

// Checklist: P21.
func TestInformationalAndUpgrade(t *testing.T) {
	t.Run("103", func(t *testing.T) {
		s := serveRaw(t, script("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"+ok1, ok1))
		tr := newTransport(t, known)
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, h.Get("Link")))
				return nil
			},
		})
		mustSend(t, tr, requestTo(t, ctx, "GET", "tcp", s.addr(), nil))
		if len(hints) != 1 || hints[0] != "103</a.css>" {
			t.Errorf("hints = %q", hints)
		}
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
			t.Errorf("connection %s", got)
		}
	})
	t.Run("101", func(t *testing.T) {
		s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
			req := readRequest(r)
			if req == nil {
				return
			}
			if req.Header.Get("Upgrade") == "" {
				respond(c, strconv.FormatInt(n, 10))
				readRequest(r)
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, r) // echo
		})
		tr := newTransport(t, known)
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		rw := resp.Body.(io.ReadWriteCloser)
		io.WriteString(rw, "ping")
		buf := make([]byte, 4)
		if _, err := io.ReadFull(rw, buf); err != nil || string(buf) != "ping" {
			t.Fatalf("echo = %q, %v", buf, err)
		}
		p := onlyPool(t, tr)
		if st := p.snapshot().Connections; st["upgraded"] != 1 || st["idle"]+st["busy"] != 0 {
			t.Errorf("connections = %v", st)
		}
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "2" {
			t.Errorf("connection %s", got)
		}
		if cw, ok := rw.(interface{ CloseWrite() error }); !ok || cw.CloseWrite() != nil {
			t.Error("the upgraded connection cannot be half-closed")
		}
		if rest, err := io.ReadAll(rw); err != nil || len(rest) != 0 {
			t.Errorf("after closing our half: %q, %v", rest, err)
		}
		rw.Close()
		eventually(t, "it is counted as closed", func() bool {
			st := p.snapshot()
			return st.Connections["upgraded"] == 0 && st.Closes[connpool.CloseUpgraded] == 1
		})
	})
}

// Checklist: P22.
func TestClientCancel(t *testing.T) {
	release := make(chan struct{})
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := readRequest(r)
			if req == nil {
				return
			}
			switch req.Header.Get("Step") {
			case "header":
				<-release
			case "body":
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
				<-release
				io.WriteString(c, "WRONG!")
			default:
				respond(c, "right")
			}
		}
	})
	tr := newTransport(t, known)
	for _, step := range []string{"header", "body"} {
		ctx, cancel := context.WithCancel(t.Context())
		req := requestTo(t, ctx, "GET", "tcp", s.addr(), nil)
		req.Header.Set("Step", step)
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, _, err := send(tr, req); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error = %v", step, err)
		}
	}
	close(release)
	for range 5 {
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "right" {
			t.Errorf("answered %q", got)
		}
	}
	p := onlyPool(t, tr)
	if st := p.snapshot(); len(st.Replays) != 0 || st.Races != 0 {
		t.Errorf("cancelled requests were replayed or took for races: %+v", st)
	}
	eventually(t, "all reservations are gone", func() bool { return p.snapshot().Connections["busy"] == 0 })
}

// Apache and Tomcat announce their timeout only to a request that has a
// Connection: keep-alive. It goes with the first request of a connection, and
// the caller's header stays as it is.
func TestElicitingTheAnnouncement(t *testing.T) {
	connection := make(chan string, 10)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := readRequest(r)
			if req == nil {
				return
			}
			connection <- req.Header.Get("Connection")
			if req.Header.Get("Connection") == "keep-alive" {
				respond(c, "", "Connection: keep-alive", "Keep-Alive: timeout=7")
			} else {
				respond(c, "")
			}
		}
	})
	tr := newTransport(t, nil)
	for _, want := range []string{"keep-alive", ""} {
		req := newRequest(t, "GET", s.addr(), nil)
		mustSend(t, tr, req)
		if got := <-connection; got != want {
			t.Errorf("Connection: %q, want %q", got, want)
		}
		if req.Header["Connection"] != nil {
			t.Error("the caller's header was changed")
		}
	}
	if st := onlyPool(t, tr).snapshot(); st.Source != idletime.SourceAnnounced || st.KeepAlive != 7 || st.Why != "idle limit 6.65 s: announced timeout 7 s minus margin 350 ms" {
		t.Errorf("state = %+v", st)
	}
	off := newTransport(t, func(tr *Transport) {
		no := false
		tr.KeepAlive = &reverseproxy.KeepAlive{Enabled: &no}
	})
	mustSend(t, off, newRequest(t, "GET", s.addr(), nil))
	if got := <-connection; got != "close" {
		t.Errorf("with keepalive off: Connection: %q", got)
	}
}

// Trailers go both ways, and a replay has those of the request, too.
func TestTrailers(t *testing.T) {
	for _, replayed := range []bool{false, true} {
		t.Run(fmt.Sprintf("replayed=%v", replayed), func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				for i := 0; ; i++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					if replayed && n == 1 && i == 1 {
						return
					}
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Back\r\n\r\n2\r\nok\r\n0\r\nBack: %s\r\n\r\n", req.Trailer.Get("Forth"))
				}
			})
			tr := newTransport(t, known)
			for range 2 {
				req := newRequest(t, "PUT", s.addr(), nil)
				req.Trailer = http.Header{"Forth": nil}
				req.ContentLength = -1
				req.Body = &trailerBody{Reader: strings.NewReader("body"), trailer: req.Trailer}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.Trailer.Get("Back") != "value" {
					t.Errorf("trailer = %v", resp.Trailer)
				}
			}
			if replays := onlyPool(t, tr).snapshot().Replays[replay.NoResponse]; (replays == 1) != replayed || s.conns.Load() != 1+replays {
				t.Errorf("%d replays, %d connections", replays, s.conns.Load())
			}
		})
	}
}

// trailerBody fills in the trailers at its end, as reverse_proxy does.
type trailerBody struct {
	io.Reader
	trailer http.Header
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.trailer.Set("Forth", "value")
	}
	return n, err
}

func (b *trailerBody) Close() error { return nil }

func TestExpectContinue(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Refuse") != "" {
				io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				return
			}
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			b, _ := io.ReadAll(req.Body)
			respond(c, string(b))
		}
	})
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ExpectContinueTimeout = caddy.Duration(5 * time.Second) })
	for range 2 {
		req := newRequest(t, "POST", s.addr(), strings.NewReader("body"))
		req.Header.Set("Expect", "100-continue")
		if got := mustSend(t, tr, req); got != "body" {
			t.Errorf("body = %q", got)
		}
	}
	body := &countingBody{Reader: strings.NewReader("body")}
	req := newRequest(t, "POST", s.addr(), body)
	req.ContentLength = 4
	req.Header.Set("Expect", "100-continue")
	req.Header.Set("Refuse", "1")
	if status, _, err := send(tr, req); status != 417 || err != nil {
		t.Errorf("status %d, error %v", status, err)
	}
}

func TestRequestBodyError(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	broken := errors.New("client broke off")
	body := &countingBody{Reader: io.MultiReader(strings.NewReader("abc"), errReader{broken})}
	req := newRequest(t, "PUT", s.addr(), body)
	req.ContentLength = 10
	_, _, err := send(tr, req)
	if !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
	if body.closes() != 1 {
		t.Errorf("the body was closed %d times", body.closes())
	}
	if tr.core.upstreams.get(tr.mustTarget(t, s.addr()).upstream()).H1.Limit(time.Now(), idletime.Optional{}).Raised {
		t.Error("a broken request was taken for a race")
	}
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2: a broken request was replayed", n)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// A request that net/http refuses leaves its connection usable.
func TestInvalidRequestLeavesTheConnection(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.MaxConnsPerHost = 1 })
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	for range 3 {
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header["Bad Name"] = []string{"x"}
		if _, _, err := send(tr, req); err == nil {
			t.Fatal("no error")
		}
	}
	if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
		t.Errorf("connection %s", got)
	}
	if st := onlyPool(t, tr).snapshot(); len(st.Replays) != 0 {
		t.Errorf("replays = %v", st.Replays)
	}
}

func TestResponseHeaderTimeout(t *testing.T) {
	var seen atomic.Int64
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for i := 0; readRequest(r) != nil; i++ {
			seen.Add(1)
			if i == 0 {
				respond(c, "")
			}
		}
	})
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ResponseHeaderTimeout = caddy.Duration(time.Second) })
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	_, _, err := send(tr, newRequest(t, "GET", s.addr(), nil))
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("error = %v, want a timeout", err)
	}
	if seen.Load() != 2 {
		t.Errorf("a request that timed out was repeated: %d requests", seen.Load())
	}
}

// read_timeout is a timeout of ours: it must not hit a request on a connection
// that has been idle for almost as long, and teaches nothing.
func TestReadTimeout(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for readRequest(r) != nil {
			time.Sleep(800 * time.Millisecond)
			respond(c, strconv.FormatInt(n, 10))
		}
	})
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ReadTimeout = caddy.Duration(2 * time.Second) })
	mustSend(t, tr, newRequest(t, "POST", s.addr(), nil))
	time.Sleep(1500 * time.Millisecond)
	if got := mustSend(t, tr, newRequest(t, "POST", s.addr(), nil)); got != "1" {
		t.Errorf("connection %s", got)
	}
	time.Sleep(2200 * time.Millisecond)
	if st := tr.core.upstreams.get(tr.mustTarget(t, s.addr()).upstream()).H1.Limit(time.Now(), idletime.Optional{}); st.Bound == idletime.BoundEarlyClose {
		t.Errorf("a timeout of ours was taken for the upstream's: %v", st)
	}
}

func (t *Transport) mustTarget(tb testing.TB, addr string) target {
	req := newRequest(tb, "GET", addr, nil)
	t.setScheme(req)
	tg, err := t.target(req)
	if err != nil {
		tb.Fatal(err)
	}
	return tg
}

// countingBody counts how often it is closed.
type countingBody struct {
	io.Reader
	closed atomic.Int64
}

func (b *countingBody) Close() error { b.closed.Add(1); return nil }

func (b *countingBody) closes() int64 { return b.closed.Load() }
