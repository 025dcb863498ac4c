package upstreampool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// dieOnSecond answers the first request of a connection and dies, after reading
// it, on the second. It counts what it reads by method.
func dieOnSecond(seen *atomic.Int64, how func(net.Conn)) func(int64, net.Conn, *bufio.Reader) {
	return func(n int64, c net.Conn, r *bufio.Reader) {
		for i := 0; ; i++ {
			if fake.ReadRequest(r) == nil {
				return
			}
			seen.Add(1)
			if i > 0 {
				how(c)
				return
			}
			fake.Respond(c, strconv.FormatInt(n, 10))
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
				if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
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
						req := fake.ReadRequest(r)
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
						fake.Respond(c, "")
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
		for i := 0; fake.ReadRequest(r) != nil; i++ {
			seen.Add(1)
			if n > 1 || i > 0 {
				return
			}
			fake.Respond(c, "")
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
				req := fake.ReadRequest(r)
				if req == nil {
					return
				}
				b, _ := io.ReadAll(req.Body)
				bodies <- string(b)
				if i > 0 {
					io.WriteString(c, misdirected)
				} else {
					fake.Respond(c, strconv.FormatInt(n, 10))
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
			for i := 0; fake.ReadRequest(r) != nil; i++ {
				if seen.Add(1) > 1 {
					io.WriteString(c, misdirected)
				} else {
					fake.Respond(c, "")
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

// countingBody counts how often it is closed.
type countingBody struct {
	io.Reader
	closed atomic.Int64
}

func (b *countingBody) Close() error { b.closed.Add(1); return nil }

func (b *countingBody) closes() int64 { return b.closed.Load() }

// A replay that a full pool refuses, or whose client leaves, fails for that. The error
// of the first attempt would count as a failure of the upstream.
//
// Checklist: P24.
func TestReplayInAFullPoolFailsAsRefused(t *testing.T) {
	for _, tc := range []struct {
		name     string
		pending  int
		patience time.Duration // of the client
		want     error
		full     bool
	}{
		{"max_pending", 1, time.Hour, connpool.ErrQueueFull, true},
		{"acquire_timeout", 2, time.Hour, connpool.ErrAcquireTimeout, true},
		{"the client leaves", 2, 2 * time.Second, context.DeadlineExceeded, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) {
				known(tr)
				tr.MaxConnsPerHost, tr.MaxPending = 1, tc.pending
			}, func(t *testing.T, tr *Transport, _ *pipeServer) {
				scripted(tr, func(n int64, c net.Conn, r *bufio.Reader) {
					for fake.ReadRequest(r) != nil {
						if n == 2 {
							time.Sleep(time.Minute)
						}
						fake.Respond(c, "")
						if fake.ReadRequest(r) != nil {
							time.Sleep(time.Second)
							return // without an answer
						}
					}
				})
				dial := tr.core.h2Transport.DialContext
				tr.core.h2Transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					time.Sleep(100 * time.Millisecond) // the other one still waits when the first attempt has failed
					return dial(ctx, network, addr)
				}
				mustSend(t, tr, get(t))
				ctx, cancel := context.WithTimeout(t.Context(), tc.patience)
				defer cancel()
				replayed := make(chan error)
				go func() {
					_, _, err := send(tr, requestTo(t, ctx, "GET", "tcp", pipeAddr, nil))
					replayed <- err
				}()
				synctest.Wait()
				first := make(chan string)
				go func() { first <- mustSend(t, tr, get(t)) }() // it waits, and gets the next connection
				err := <-replayed
				_, elsewhere := errors.AsType[reverseproxy.DialError](err)
				if !errors.Is(err, tc.want) && fullCause(err) != tc.want || elsewhere != tc.full {
					t.Errorf("error = %v, want %v", err, tc.want)
				}
				<-first
			})
		})
	}
}
