package upstreampool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// settled checks that nothing is left: no reservation, no waiter, and, when
// the transport is gone, no goroutine more than before.
func settled(t *testing.T, before int, tr *Transport) {
	t.Helper()
	eventually(t, "no request holds a connection", func() bool {
		for _, p := range tr.core.all() {
			st := p.snapshot()
			if st.Connections["busy"] != 0 || st.Connections["dialing"] != 0 || st.Waiting != 0 {
				return false
			}
		}
		return true
	})
	_ = tr.Cleanup()
	eventually(t, "no pool is left", func() bool { return len(tr.core.all()) == 0 })
	if n := tr.core.group.Idle(); n != 0 {
		t.Errorf("%d idle connections are counted after all were closed", n)
	}
	var n int
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if n = runtime.NumGoroutine(); n <= before {
			return
		}
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines, before it were %d\n%s", n, before, buf[:runtime.Stack(buf, true)])
}

// The upstream fails at every step, in every way. Requests get an error or an
// answer, soon, and other requests are unharmed.
func TestFaults(t *testing.T) {
	type fault struct {
		name string
		do   func(c net.Conn, r *bufio.Reader)
	}
	faults := []fault{
		{"close before the request", func(c net.Conn, r *bufio.Reader) {}},
		{"reset before the request", func(c net.Conn, r *bufio.Reader) { rst(c) }},
		{"reset in the request", func(c net.Conn, r *bufio.Reader) { r.ReadByte(); rst(c) }},
		{"reset after the request", func(c net.Conn, r *bufio.Reader) { fake.ReadRequest(r); rst(c) }},
		{"reset in the header", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConte")
			rst(c)
		}},
		{"reset after the header", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			rst(c)
		}},
		{"reset in the body", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
			rst(c)
		}},
		{"reset in the trailers", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: ")
			rst(c)
		}},
		{"close in the body", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
		}},
		{"endless header", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, "A: "+strings.Repeat("a", 1<<16)+"\r\n"); err != nil {
					return
				}
			}
		}},
		{"surplus", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			var b strings.Builder // in one segment: what comes later cannot be told from an answer
			fake.Respond(&b, "fine")
			fake.Respond(&b, "WRONG")
			io.WriteString(c, b.String())
			time.Sleep(20 * time.Millisecond)
		}},
		{"trickle", func(c net.Conn, r *bufio.Reader) {
			fake.ReadRequest(r)
			for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine") {
				c.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
		}},
	}
	for _, f := range faults {
		for _, warm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s warm=%v", f.name, warm), func(t *testing.T) {
				var broken atomic.Bool
				s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
					for {
						if broken.Load() {
							f.do(c, r)
							return
						}
						if _, err := r.Peek(1); err != nil {
							return
						}
						if broken.Load() {
							f.do(c, r)
							return
						}
						if fake.ReadRequest(r) == nil {
							return
						}
						fake.Respond(c, "fine")
					}
				})
				tr := newTransport(t, known)
				if warm {
					mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
				}
				broken.Store(true)
				for _, method := range []string{"GET", "POST", "PUT"} {
					for range 3 {
						var body io.Reader
						if method != "GET" {
							body = strings.NewReader(strings.Repeat("x", 5000))
						}
						ctx, cancel := contextWithTimeout(t, 30*time.Second)
						_, got, err := send(tr, requestTo(t, ctx, method, "tcp", s.addr(), body))
						cancel()
						if errors.Is(err, context.DeadlineExceeded) || got == "WRONG" || err == nil && got != "fine" {
							t.Errorf("%s: %q, %v", method, got, err)
						}
					}
				}
				broken.Store(false)
				for range 5 {
					if _, got, err := send(tr, newRequest(t, "GET", s.addr(), nil)); err != nil || got != "fine" {
						t.Errorf("afterwards: %q, %v", got, err)
					}
				}
				s.Close()
				settled(t, runtime.NumGoroutine(), tr)
			})
		}
	}
}

// An upstream that never reads holds up its own request only.
func TestUpstreamThatNeverReads(t *testing.T) {
	done := make(chan struct{})
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		if n == 1 {
			<-done
			return
		}
		echo(n, c, r)
	})
	end := sync.OnceFunc(func() { close(done) })
	t.Cleanup(end)
	tr := newTransport(t, known)
	slow := make(chan error, 1)
	go func() {
		_, _, err := send(tr, newRequest(t, "POST", s.addr(), strings.NewReader(strings.Repeat("x", 20<<20))))
		slow <- err
	}()
	eventually(t, "it is under way", func() bool {
		return s.conns.Load() == 1 && onlyPool(t, tr).snapshot().Connections["busy"] == 1
	})
	ctx, cancel := contextWithTimeout(t, 20*time.Second)
	defer cancel()
	for range 10 {
		mustSend(t, tr, requestTo(t, ctx, "GET", "tcp", s.addr(), nil))
	}
	end()
	if err := <-slow; err == nil {
		t.Error("no error")
	}
}

// Ten thousand requests want the connections of a full pool.
func TestTenThousandWaiters(t *testing.T) {
	before := runtime.NumGoroutine()
	const maxConns, maxPending = 4, 1000
	n := int64(10_000)
	if race.Enabled {
		n = 5000 // the detector has room for 8128 goroutines
	}
	var most, now atomic.Int64
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	s := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		m := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); m > old && !most.CompareAndSwap(old, m); old = most.Load() {
		}
		for fake.ReadRequest(r) != nil {
			<-held
			fake.Respond(c, "ok")
		}
	})
	t.Cleanup(release) // or the server would wait for ever where this fails
	tr := newTransport(t, func(tr *Transport) {
		known(tr)
		tr.MaxConnsPerHost, tr.MaxPending, tr.AcquireTimeout = maxConns, maxPending, caddy.Duration(time.Minute)
	})
	var ok, refused, other atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, _, err := send(tr, requestTo(t, ctx, "GET", "tcp", s.addr(), nil))
			var de reverseproxy.DialError
			switch {
			case err == nil:
				ok.Add(1)
			case errors.As(err, &de) && strings.Contains(err.Error(), "max_pending"):
				refused.Add(1)
			default:
				other.Add(1)
				t.Log(err)
			}
		})
	}
	poll.Until(t, "the first request", func() bool { return len(tr.core.all()) > 0 })
	// While the first connections are being opened, their requests wait, too.
	poll.Succeed(t, "all requests to wait, have a connection or be refused", func() error {
		if len(tr.core.all()) == 0 {
			return errors.New("no request has come so far")
		}
		pool := onlyPool(t, tr).snapshot()
		if pool.Waiting > maxPending || pool.Waiting+int(refused.Load())+maxConns != int(n) {
			return fmt.Errorf("%d refused, %d answered, %d failed otherwise, %+v", refused.Load(), ok.Load(), other.Load(), pool)
		}
		return nil
	})
	if r := refused.Load(); r < n-maxConns-maxPending || r > n-maxPending {
		t.Errorf("%d refused", r)
	}
	release()
	wg.Wait()
	late := int64(0) // what the pool has closed may still be open for the server
	for _, closes := range onlyPool(t, tr).snapshot().Closes {
		late += closes
	}
	if ok.Load() != n-refused.Load() || other.Load() != 0 || most.Load() > maxConns+late {
		t.Errorf("%d answered, %d refused, %d failed otherwise; %d connections at most, and %d closed", ok.Load(), refused.Load(), other.Load(), most.Load(), late)
	}
	s.Close()
	settled(t, before+1+maxConns, tr) // the server's own goroutines end later
}

// Clients give up at every step, upstreams close and reset at random, HTTP/1
// and HTTP/2, with limits on everything. No answer belongs to another request,
// no POST is processed twice, and nothing is left over.
func TestMixedLoad(t *testing.T) {
	duration := needs.InLong(3*time.Second, time.Second)
	if d, err := time.ParseDuration(os.Getenv("UPSTREAMPOOL_SOAK")); err == nil {
		duration = d
	}
	var posts sync.Map // id -> *atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("Id")
		if r.Method == "POST" {
			n, _ := posts.LoadOrStore(id, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
		}
		rnd := rand.IntN(100)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if rnd < 10 {
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
		if rnd == 50 {
			panic(http.ErrAbortHandler)
		}
		if rnd == 51 {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("Id", id)
		fmt.Fprintf(w, "%s %d %s", id, len(b), strings.Repeat("z", rand.IntN(10000)))
	})
	for _, protocol := range []string{"http", "https"} {
		t.Run(protocol, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(handler)
			srv.Config.IdleTimeout = 15 * time.Millisecond // always about to close
			srv.EnableHTTP2 = true
			tr := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
			if protocol == "https" {
				srv.StartTLS()
				tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}
			} else {
				srv.Start()
			}
			defer srv.Close()
			tr.MaxConnsPerHost, tr.MaxPending = 12, 30
			tr.MaxRequests = 50
			tr.MaxLifetime = caddy.Duration(300 * time.Millisecond)
			tr.AcquireTimeout = caddy.Duration(200 * time.Millisecond)
			tr.MinIdle = 2
			provision(t, tr)
			addr := srv.Listener.Addr().String()
			before := runtime.NumGoroutine()
			stop, last := time.Now().Add(duration), time.Now().Add(duration+30*time.Second)
			const enough = 100
			var wg sync.WaitGroup
			var answered, failed, id atomic.Int64
			for range 24 {
				wg.Go(func() {
					for time.Now().Before(stop) || answered.Load() < enough && time.Now().Before(last) {
						my := fmt.Sprint(protocol, id.Add(1))
						method := []string{"GET", "POST", "PUT", "DELETE"}[rand.IntN(4)]
						var body io.Reader
						size := 0
						if method != "GET" {
							size = rand.IntN(3 * replay.MaxKept / 2)
							body = io.NopCloser(strings.NewReader(strings.Repeat("x", size)))
						}
						ctx, cancel := context.WithCancel(t.Context())
						if rand.IntN(10) == 0 {
							time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, cancel)
						}
						req := requestTo(t, ctx, method, "tcp", addr, body)
						if rand.IntN(2) == 0 && body != nil {
							req.ContentLength = int64(size)
						} else if body != nil {
							req.ContentLength = -1
						}
						req.Header.Set("Id", my)
						resp, err := tr.RoundTrip(req)
						if err != nil {
							failed.Add(1)
							cancel()
							continue
						}
						if resp.Header.Get("Id") != my {
							t.Errorf("%s got the answer to %s", my, resp.Header.Get("Id"))
						}
						if rand.IntN(20) > 0 {
							b, err := io.ReadAll(resp.Body)
							if err == nil && !strings.HasPrefix(string(b), fmt.Sprintf("%s %d ", my, size)) {
								t.Errorf("%s with %d bytes: answer %.40q", my, size, b)
							}
						}
						resp.Body.Close()
						cancel()
						answered.Add(1)
						if rand.IntN(50) == 0 {
							time.Sleep(time.Duration(rand.IntN(25)) * time.Millisecond)
						}
					}
				})
			}
			wg.Wait()
			posts.Range(func(id, n any) bool {
				if c := n.(*atomic.Int64).Load(); c > 1 {
					t.Errorf("POST %v was processed %d times", id, c)
				}
				return true
			})
			t.Logf("%d answered, %d failed; %+v", answered.Load(), failed.Load(), States())
			if answered.Load() < enough {
				t.Errorf("only %d answered", answered.Load())
			}
			settled(t, before+20, tr)
		})
	}
}

// Configurations come and go under load, some equal to the one before. No
// request fails, and nothing is left.
func TestReloadUnderLoad(t *testing.T) {
	srv, conns := tlsServer(t, "h2")
	addr := srv.Listener.Addr().String()
	before := runtime.NumGoroutine()
	load := func(i int) (*Transport, func()) {
		tr := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
		insecure(tr)
		tr.MaxRequests = 1_000_000 + i/4 // three of four are equal to the one before
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := tr.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		return tr, func() {
			if err := tr.Cleanup(); err != nil {
				t.Error(err)
			}
			cancel()
		}
	}
	var current atomic.Pointer[Transport]
	tr, end := load(0)
	current.Store(tr)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if _, _, err := send(current.Load(), newRequest(t, "POST", addr, strings.NewReader("x"))); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	const reloads = 100
	for i := 1; i < reloads; i++ {
		next, nextEnd := load(i)
		current.Store(next)
		end()
		end = nextEnd
		time.Sleep(5 * time.Millisecond)
	}
	close(done)
	wg.Wait()
	end()
	if n := conns.Load(); n > 9*reloads/4 {
		t.Errorf("%d connections for %d reloads, most of which changed nothing", n, reloads)
	}
	eventually(t, "all connections are closed", func() bool { return runtime.NumGoroutine() <= before+2 })
}
