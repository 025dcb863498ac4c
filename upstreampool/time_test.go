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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// A pipeServer is an upstream inside a synctest bubble, on which time flies.
type pipeServer struct {
	idle      atomic.Int64 // after which it closes an idle connection; 0: never
	header    atomic.Value // string: a field line of every response
	conns     atomic.Int64
	served    atomic.Int64
	latency   atomic.Int64 // between a request and its response
	refuse    atomic.Bool
	drop      atomic.Bool  // the next request gets no response, but a close
	asked     atomic.Bool  // the last request had Connection: keep-alive
	delay     atomic.Int64 // of a connection
	open      atomic.Int64
	mostOpen  atomic.Int64
	closeConn chan struct{} // closed: a restart
}

func (s *pipeServer) setIdle(d time.Duration)    { s.idle.Store(int64(d)) }
func (s *pipeServer) setLatency(d time.Duration) { s.latency.Store(int64(d)) }

func (s *pipeServer) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if d := time.Duration(s.delay.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, reverseproxy.NewDialError(ctx.Err())
		}
	}
	if s.refuse.Load() {
		return nil, reverseproxy.NewDialError(errors.New("refused"))
	}
	client, server := net.Pipe()
	n := s.conns.Add(1)
	if o := s.open.Add(1); o > s.mostOpen.Load() {
		s.mostOpen.Store(o)
	}
	go func() {
		defer server.Close()
		s.serve(n, server)
	}()
	return &pipeClient{Conn: client, s: s}, nil
}

// A pipeClient is open until the client closes it, or has seen that the server
// did.
type pipeClient struct {
	net.Conn
	s    *pipeServer
	once sync.Once
}

func (c *pipeClient) Close() error {
	c.once.Do(func() { c.s.open.Add(-1) })
	return c.Conn.Close()
}

func (s *pipeServer) serve(n int64, c net.Conn) {
	r := bufio.NewReader(c)
	for {
		var timeout <-chan time.Time
		if d := time.Duration(s.idle.Load()); d > 0 {
			timeout = time.After(d)
		}
		got := make(chan *http.Request, 1)
		go func() { got <- readRequest(r) }()
		var req *http.Request
		select {
		case req = <-got:
		case <-timeout:
			return
		case <-s.closeConn:
			return
		}
		if req == nil {
			return
		}
		s.served.Add(1)
		if s.drop.CompareAndSwap(true, false) {
			return
		}
		s.asked.Store(req.Header.Get("Connection") == "keep-alive")
		if d := time.Duration(s.latency.Load()); d > 0 {
			time.Sleep(d)
		}
		h, _ := s.header.Load().(string)
		if h != "" {
			respond(c, strconv.FormatInt(n, 10), h)
		} else {
			respond(c, strconv.FormatInt(n, 10))
		}
	}
}

// bubble runs f in a synctest bubble with a transport whose upstream is s.
func bubble(t *testing.T, change func(*Transport), f func(t *testing.T, tr *Transport, s *pipeServer)) {
	synctest.Test(t, func(t *testing.T) {
		s := &pipeServer{closeConn: make(chan struct{})}
		tr := newTransport(t, change)
		tr.core.h2Transport.DialContext = tr.core.dialer(s.dial)
		f(t, tr, s)
		_ = tr.Cleanup() // closes what is idle, or the bubble would not end
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// scripted makes connections of tr, which must be in a bubble, end in serve.
func scripted(tr *Transport, serve func(n int64, c net.Conn, r *bufio.Reader)) {
	var conns atomic.Int64
	tr.core.h2Transport.DialContext = tr.core.dialer(func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		n := conns.Add(1)
		go func() {
			defer server.Close()
			serve(n, server, bufio.NewReader(server))
		}()
		return client, nil
	})
}

const pipeAddr = "upstream.test:80"

func get(t testing.TB) *http.Request { return newRequest(t, "GET", pipeAddr, nil) }
func post(t testing.TB) *http.Request {
	return newRequest(t, "POST", pipeAddr, strings.NewReader("x=1"))
}

func TestIdleLimitAtTakeOut(t *testing.T) {
	for _, tc := range []struct {
		name   string
		header string
		change func(*Transport)
		idle   time.Duration
		want   string
	}{
		{"just below the assumed limit", "", nil, 3800*time.Millisecond - 1, "1"},
		{"at the assumed limit", "", nil, 3800 * time.Millisecond, "2"},
		{"just below the announced limit", "Connection: keep-alive\r\nKeep-Alive: timeout=10", nil, 9500*time.Millisecond - 1, "1"},
		{"at the announced limit", "Connection: keep-alive\r\nKeep-Alive: timeout=10", nil, 9500 * time.Millisecond, "2"},
		{"below the configured limit", "", func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(time.Minute) }, 57*time.Second - 1, "1"},
		{"at the configured limit", "", func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(time.Minute) }, 57 * time.Second, "2"},
		{"below max_idle_time", "", func(tr *Transport) { tr.MaxIdleTime = caddy.Duration(time.Second) }, time.Second - 1, "1"},
		{"at max_idle_time", "", func(tr *Transport) { tr.MaxIdleTime = caddy.Duration(time.Second) }, time.Second, "2"},
		{"announced 0", "Connection: keep-alive\r\nKeep-Alive: timeout=0", nil, 0, "2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, tc.change, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.header.Store(tc.header)
				mustSend(t, tr, get(t))
				synctest.Wait()
				time.Sleep(tc.idle)
				if got := mustSend(t, tr, get(t)); got != tc.want {
					t.Errorf("after %v answered by connection %s, want %s", tc.idle, got, tc.want)
				}
			})
		})
	}
}

func TestTimerClosesAtTheLimit(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.header.Store("Connection: keep-alive\r\nKeep-Alive: timeout=5")
		mustSend(t, tr, get(t))
		time.Sleep(4749 * time.Millisecond)
		synctest.Wait()
		if s.open.Load() != 1 {
			t.Fatal("closed before the limit")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if s.open.Load() != 0 {
			t.Fatal("still open at the limit")
		}
		if n := len(tr.core.all()); n != 0 {
			t.Errorf("%d pools are left without a connection", n)
		}
	})
}

// The idle clock starts when the response has arrived, not when it was asked
// for, and later bytes do not move it.
func TestIdleClock(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(10 * time.Second) }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(20 * time.Second)
		mustSend(t, tr, get(t))
		time.Sleep(7 * time.Second)
		if got := mustSend(t, tr, get(t)); got != "1" {
			t.Errorf("7 s after a slow response: connection %s", got)
		}
	})
}

// A slow reader finds the end of the response long after it arrived.
func TestIdleClockOfASlowReader(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(10 * time.Second) }, func(t *testing.T, tr *Transport, s *pipeServer) {
		resp, err := tr.RoundTrip(get(t))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(8 * time.Second)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		synctest.Wait()
		p := onlyPool(t, tr)
		age := p.Snapshot().IdleAges[0]
		if age != 8*time.Second {
			t.Errorf("age = %v, want 8s: the response was there all along", age)
		}
		time.Sleep(2 * time.Second)
		if got := mustSend(t, tr, get(t)); got != "2" {
			t.Errorf("10 s after the response arrived: connection %s, want a new one", got)
		}
	})
}

// Checklist: P20.
func TestAnnouncedTimeoutIsNoRequestTimeout(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.header.Store("Connection: keep-alive\r\nKeep-Alive: timeout=1")
		mustSend(t, tr, get(t))
		s.setLatency(3 * time.Second)
		if got := mustSend(t, tr, post(t)); got != "1" {
			t.Errorf("answered by connection %s", got)
		}
	})
}

// Checklist: P14.
func TestSpacedAroundTheLimit(t *testing.T) {
	const keepAlive = time.Second
	run := func(t *testing.T, tr *Transport, s *pipeServer, n int) (failed int) {
		s.setIdle(keepAlive)
		s.setLatency(20 * time.Millisecond)
		rnd := rand.New(rand.NewPCG(1, 2))
		for range n {
			// Most gaps are within a latency of the close, as that is where
			// requests and closes cross.
			time.Sleep(keepAlive - 30*time.Millisecond + time.Duration(rnd.Int64N(int64(40*time.Millisecond))))
			if _, _, err := send(tr, post(t)); err != nil {
				failed++
			}
		}
		return failed
	}
	t.Run("below", func(t *testing.T) {
		bubble(t, func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(keepAlive) }, func(t *testing.T, tr *Transport, s *pipeServer) {
			if n := run(t, tr, s, 10000); n != 0 {
				t.Errorf("%d of 10000 requests failed", n)
			}
		})
	})
	t.Run("learning", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
			if n := run(t, tr, s, 10000); n != 0 {
				t.Errorf("%d of 10000 requests failed", n)
			}
		})
	})
}

// Upstreams close idle connections after the given times; the pool finds out.
func TestLearning(t *testing.T) {
	for _, keepAlive := range []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second, 75 * time.Second} {
		t.Run(keepAlive.String(), func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.setIdle(keepAlive)
				var l idletime.Limit
				for start := time.Now(); time.Since(start) < 10*time.Minute; time.Sleep(7 * time.Second) {
					mustSend(t, tr, get(t))
					if l = tr.learnedLimit(); l.Source == idletime.SourceLearned {
						break
					}
				}
				if l.Source != idletime.SourceLearned || !idletime.SameAge(l.KeepAlive, keepAlive) {
					t.Fatalf("limit = %v", l)
				}
				// And uses it.
				mustSend(t, tr, get(t))
				opened := s.conns.Load()
				for range 10 {
					time.Sleep(l.Value * 9 / 10)
					mustSend(t, tr, post(t))
				}
				if n := s.conns.Load() - opened; n > 0 {
					t.Errorf("%d connections opened for 10 requests within the limit", n)
				}
			})
		})
	}
}

// learnedLimit returns the HTTP/1 limit of the upstream at pipeAddr.
func (t *Transport) learnedLimit() idletime.Limit {
	u := t.core.upstreams.get(upstreamKey{scheme: "http", network: "tcp", addr: pipeAddr})
	return u.H1.Limit(time.Now(), idletime.Optional{})
}

// A race is a request that met a connection as the upstream was closing it. It
// counts as failed unless it was sent again.
func TestRaces(t *testing.T) {
	const limit = 10 * time.Second
	for _, tc := range []struct {
		name             string
		idle             time.Duration
		req              func(testing.TB) *http.Request
		refuse           bool // no connection for a second attempt
		failed, replayed float64
	}{
		{"a GET is sent again", limit - 1, get, false, 0, 1},
		{"a POST is not", limit - 1, post, false, 1, 0},
		{"a GET that gets no other connection", limit - 1, get, true, 1, 0},
		{"half of the idle limit", limit / 2, post, false, 1, 0},
		{"on a connection that was used just now, something else is wrong", limit/2 - 1, post, false, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) {
				known(tr)
				tr.MaxIdleTime = caddy.Duration(limit)
			}, func(t *testing.T, tr *Transport, s *pipeServer) {
				count := func(outcome string) float64 {
					v, ok := metric(t, "caddy_upstreampool_races_total", map[string]string{"upstream": pipeAddr, "outcome": outcome})
					if !ok {
						t.Fatalf("races that %s are not there before the first one", outcome)
					}
					return v
				}
				mustSend(t, tr, get(t))
				failed, replayed := count("failed"), count("replayed")
				time.Sleep(tc.idle)
				s.drop.Store(true)
				s.refuse.Store(tc.refuse)
				_, _, err := send(tr, tc.req(t))
				if got := count("failed") - failed; got != tc.failed {
					t.Errorf("%v failed, want %v; the request: %v", got, tc.failed, err)
				}
				if got := count("replayed") - replayed; got != tc.replayed {
					t.Errorf("%v replayed, want %v; the request: %v", got, tc.replayed, err)
				}
			})
		})
	}
}

func TestLearningFollowsChanges(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		for _, keepAlive := range []time.Duration{60 * time.Second, 5 * time.Second, 30 * time.Second} {
			s.setIdle(keepAlive)
			known := false
			for start := time.Now(); !known && time.Since(start) < time.Hour; time.Sleep(7 * time.Second) {
				if _, _, err := send(tr, get(t)); err != nil {
					t.Fatal(err)
				}
				l := tr.learnedLimit()
				known = l.Source == idletime.SourceLearned && idletime.SameAge(l.KeepAlive, keepAlive)
			}
			if !known {
				t.Fatalf("%v not found within an hour: %v", keepAlive, tr.learnedLimit())
			}
		}
	})
}

// A value that two restarts taught is corrected, also where max_conns_per_host leaves
// no place for a sensor beside a connection in use.
func TestLearningRecoversFromRestarts(t *testing.T) {
	for _, maxConns := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(maxConns), func(t *testing.T) {
			bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = maxConns }, func(t *testing.T, tr *Transport, s *pipeServer) {
				for range 2 {
					mustSend(t, tr, get(t))
					time.Sleep(time.Second)
					close(s.closeConn)
					synctest.Wait()
					s.closeConn = make(chan struct{})
					time.Sleep(11 * time.Minute) // the first one caps the limit no more
				}
				if l := tr.learnedLimit(); l.Source != idletime.SourceLearned || l.KeepAlive != time.Second {
					t.Fatalf("limit = %v", l)
				}
				for range 6 {
					mustSend(t, tr, get(t))
					time.Sleep(10 * time.Minute)
				}
				if l := tr.learnedLimit(); l.KeepAlive != idletime.DefaultMaxIdle {
					t.Errorf("limit = %v, want one of an upstream that closes nothing", l)
				}
			})
		})
	}
}

func TestLearningIgnoresRestarts(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(100 * time.Millisecond)
		for range 5 {
			// Three connections of different ages, then a restart.
			done := make(chan error, 3)
			for range 3 {
				go func() { _, _, err := send(tr, get(t)); done <- err }()
			}
			for range 3 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			for i := range 2 { // two at once, then one: ages differ
				for range 2 - i {
					go func() { _, _, err := send(tr, get(t)); done <- err }()
				}
				for range 2 - i {
					<-done
				}
				time.Sleep(700 * time.Millisecond)
			}
			close(s.closeConn)
			synctest.Wait()
			s.closeConn = make(chan struct{})
			time.Sleep(time.Minute)
		}
		if l := tr.learnedLimit(); l.Source != idletime.SourceAssumed {
			t.Errorf("limit after five restarts = %v, want nothing learned", l)
		}
	})
}

// At most one connection is a sensor, and it carries no request any more.
func TestSensor(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(time.Millisecond)
		done := make(chan string, 5)
		for range 5 {
			go func() { _, body, _ := send(tr, get(t)); done <- body }()
		}
		for range 5 {
			<-done
		}
		time.Sleep(3900 * time.Millisecond) // all reached the limit
		synctest.Wait()
		st := onlyPool(t, tr).snapshot()
		if st.Connections["sensor"] != 1 || st.Connections["idle"] != 0 || s.open.Load() != 1 {
			t.Fatalf("connections = %v, %d open; want one sensor", st.Connections, s.open.Load())
		}
		for range 20 {
			if n, _ := strconv.Atoi(mustSend(t, tr, get(t))); n <= 5 {
				t.Fatalf("answered by connection %d, which had reached its limit", n)
			}
			time.Sleep(4 * time.Second)
			if n := onlyPool(t, tr).snapshot().Connections["sensor"]; n > 1 {
				t.Fatalf("%d sensors", n)
			}
		}
		time.Sleep(time.Minute) // 2 m in all: it outlives max_idle_time
		synctest.Wait()
		if l := tr.learnedLimit(); l.Source != idletime.SourceLearned || l.KeepAlive != 2*time.Minute {
			t.Errorf("limit = %v, want at least 2 m", l)
		}
	})
}

// A request that fails on a connection which was idle for long has met its end,
// if that shows at once, and if it is one.
func TestWhatIsARace(t *testing.T) {
	hangUp := func(after time.Duration) func(int64, net.Conn, *bufio.Reader) {
		return func(n int64, c net.Conn, r *bufio.Reader) {
			for i := 0; readRequest(r) != nil; i++ {
				if i > 0 && n == 1 {
					time.Sleep(after)
					return
				}
				respond(c, "")
			}
		}
	}
	for _, tc := range []struct {
		name  string
		idle  time.Duration
		serve func(int64, net.Conn, *bufio.Reader)
		race  bool
	}{
		{"the upstream hangs up", 3 * time.Second, hangUp(50 * time.Millisecond), true},
		{"on a connection used just before", 100 * time.Millisecond, hangUp(50 * time.Millisecond), false},
		{"after it has worked on the request for long", 3 * time.Second, hangUp(30 * time.Second), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) {
				tr.UpstreamKeepAlive = caddy.Duration(5 * time.Second)
			}, func(t *testing.T, tr *Transport, _ *pipeServer) {
				scripted(tr, tc.serve)
				mustSend(t, tr, get(t))
				time.Sleep(tc.idle)
				mustSend(t, tr, get(t)) // replayed
				if l := tr.learnedLimit(); l.Raised != tc.race || (l.Bound == idletime.BoundEarlyClose) != tc.race {
					t.Errorf("taken for a race: %v, want %v; %v", l.Raised, tc.race, l)
				}
			})
		})
	}
}

// An upstream that answers certain requests by closing the connection, as nginx
// does with `return 444`, closes no idle ones. Clients that know such a request
// could teach an ever shorter timeout, until nothing is reused.
func TestClosesInsteadOfAnswersTeachNothing(t *testing.T) {
	for _, configured := range []time.Duration{0, 10 * time.Second} {
		t.Run(configured.String(), func(t *testing.T) {
			bubble(t, func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(configured) }, func(t *testing.T, tr *Transport, _ *pipeServer) {
				scripted(tr, func(n int64, c net.Conn, r *bufio.Reader) {
					for req := readRequest(r); req != nil && req.Method != "DELETE"; req = readRequest(r) {
						respond(c, strconv.FormatInt(n, 10))
					}
				})
				before := tr.learnedLimit()
				for range 12 {
					mustSend(t, tr, get(t))
					time.Sleep(tr.learnedLimit().Value * 6 / 10)
					if _, _, err := send(tr, newRequest(t, "DELETE", pipeAddr, nil)); err == nil {
						t.Error("no error")
					}
					time.Sleep(2 * time.Second)
				}
				if l := tr.learnedLimit(); l.Source != before.Source || l.KeepAlive != before.KeepAlive || l.Bound == idletime.BoundEarlyClose {
					t.Errorf("limit = %v; before: %v", l, before)
				}
			})
		})
	}
}

// Until the timeout is known, a POST takes a connection that was idle for less
// than 500 ms only.
func TestPostBeforeTheTimeoutIsKnown(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		mustSend(t, tr, get(t))
		time.Sleep(499 * time.Millisecond)
		if got := mustSend(t, tr, post(t)); got != "1" {
			t.Errorf("after 499 ms: connection %s", got)
		}
		time.Sleep(500 * time.Millisecond)
		if got := mustSend(t, tr, post(t)); got != "2" {
			t.Errorf("after 500 ms: connection %s, want a new one", got)
		}
		time.Sleep(2 * time.Second)
		if got := mustSend(t, tr, newRequest(t, "PUT", pipeAddr, strings.NewReader("a"))); got == "3" {
			t.Errorf("a PUT that can be replayed got a new connection")
		}
		time.Sleep(2 * time.Second)
		large := newRequest(t, "PUT", pipeAddr, strings.NewReader(strings.Repeat("a", replay.MaxKept+1)))
		if got := mustSend(t, tr, large); got != "3" {
			t.Errorf("a PUT that cannot be replayed took connection %s", got)
		}
	})
}

func TestMaxRequests(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxRequests = 3 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		var got string
		for range 9 {
			got += mustSend(t, tr, get(t))
			synctest.Wait()
		}
		if got != "111222333" {
			t.Errorf("requests went to connections %s", got)
		}
		if s.open.Load() != 0 {
			t.Errorf("%d connections open after their last request", s.open.Load())
		}
	})
}

func TestMaxLifetime(t *testing.T) {
	bubble(t, func(tr *Transport) {
		tr.MaxLifetime = caddy.Duration(10 * time.Second)
		none := 0
		tr.MaxLifetimeJitter = &none
		tr.UpstreamKeepAlive = caddy.Duration(time.Hour)
		tr.MaxIdleTime = caddy.Duration(30 * time.Minute)
	}, func(t *testing.T, tr *Transport, s *pipeServer) {
		for i := range 10 {
			if got := mustSend(t, tr, get(t)); got != "1" {
				t.Fatalf("after %d s: connection %s", i, got)
			}
			time.Sleep(time.Second)
		}
		if got := mustSend(t, tr, get(t)); got != "2" {
			t.Errorf("after 10 s: connection %s, want a new one", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s.open.Load() != 0 {
			t.Error("an idle one is still open after its lifetime")
		}
		if got := mustSend(t, tr, get(t)); got != "3" {
			t.Errorf("connection %s, want a new one", got)
		}
		// One that carries a request is not interrupted.
		s.setLatency(time.Minute)
		if got := mustSend(t, tr, get(t)); got != "3" {
			t.Errorf("connection %s", got)
		}
		synctest.Wait()
		if s.open.Load() != 0 {
			t.Error("still open after its lifetime and last request")
		}
	})
}

func TestMinIdle(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MinIdle = 3 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setIdle(2 * time.Second) // connections die and are replaced
		mustSend(t, tr, get(t))
		synctest.Wait()
		count := func() int { return onlyPool(t, tr).snapshot().Connections["idle"] }
		if n := count(); n < 3 {
			t.Fatalf("%d idle connections, want 3", n)
		}
		for range 20 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if n := count(); n < 3 {
				t.Fatalf("%d idle connections, want 3", n)
			}
		}
		if l := tr.learnedLimit(); l.Source != idletime.SourceAssumed {
			t.Errorf("connections that carried no request taught %v", l)
		}
		s.refuse.Store(true) // and dialed again, not too often, when that fails
		time.Sleep(30 * time.Second)
		errs := onlyPool(t, tr).snapshot().DialErrors
		if errs == 0 || errs > 3*31 {
			t.Errorf("%d failed dials in 30 s", errs)
		}
		s.refuse.Store(false)
		s.setIdle(0)
		time.Sleep(time.Minute) // the longest pause between dials
		synctest.Wait()
		if n := count(); n < 3 {
			t.Fatalf("%d idle connections after the upstream came back, want 3", n)
		}
		time.Sleep(2 * time.Hour) // nobody asks any more
		if n := len(tr.core.all()); n != 0 || s.open.Load() != 0 {
			t.Errorf("%d pools, %d connections are left", n, s.open.Load())
		}
	})
}

// Upstreams close a connection that has not brought a request yet by another,
// often shorter timeout (nginx: 60 s instead of 75 s, Apache: 20 s).
func TestUnusedConnectionsAreNotKeptAlive(t *testing.T) {
	bubble(t, known, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.delay.Store(int64(time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := tr.RoundTrip(requestTo(t, ctx, "GET", "tcp", pipeAddr, nil)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("err = %v", err)
		}
		time.Sleep(5 * time.Second)
		if got := mustSend(t, tr, post(t)); got != "2" {
			t.Errorf("a POST went out on connection %s, idle for 4 s since it was opened", got)
		}
		time.Sleep(time.Minute)
		if got := mustSend(t, tr, post(t)); got != "2" {
			t.Errorf("connection %s, want the one that is kept alive", got)
		}
	})
}

// Connections for min_idle that are of no use are not opened again and again.
func TestMinIdleInVain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		header string
		idle   time.Duration
		change func(*Transport)
		most   int64 // opened in 10 s
	}{
		{"nothing is reused", "Connection: keep-alive\r\nKeep-Alive: timeout=0", 0, nil, 0},
		{"they are closed at once", "", time.Millisecond, nil, 3 * 11},
		{"max_lifetime is over at once", "", 0, func(tr *Transport) { tr.MaxLifetime = caddy.Duration(time.Millisecond) }, 3 * 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) {
				tr.MinIdle = 3
				if tc.change != nil {
					tc.change(tr)
				}
			}, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.header.Store(tc.header)
				s.setIdle(tc.idle)
				s.delay.Store(int64(10 * time.Millisecond)) // or the clock would stand still
				mustSend(t, tr, get(t))
				time.Sleep(time.Second)
				before := s.conns.Load()
				time.Sleep(10 * time.Second)
				if n := s.conns.Load() - before; n > tc.most {
					t.Errorf("%d connections opened in 10 s, want at most %d", n, tc.most)
				}
			})
		})
	}
}

func TestMaxConnsQueue(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(time.Second)
		type result struct {
			i   int
			err error
		}
		done := make(chan result, 8)
		for i := range 8 {
			go func() { _, _, err := send(tr, get(t)); done <- result{i, err} }()
			synctest.Wait() // in this order
		}
		for i := range 8 {
			r := <-done
			if r.err != nil {
				t.Fatal(r.err)
			}
			if r.i/2 != i/2 {
				t.Errorf("request %d was answered as number %d", r.i, i)
			}
		}
		if n := s.mostOpen.Load(); n != 2 {
			t.Errorf("%d connections at once, want 2", n)
		}
	})
}

func TestQueueFullAndTimeout(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost, tr.MaxPending = 1, 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(time.Minute)
		refusals := func(reason string) float64 {
			v, _ := metric(t, "caddy_upstreampool_refusals_total", map[string]string{"upstream": pipeAddr, "reason": reason})
			return v
		}
		before := map[string]float64{"queue_full": refusals("queue_full"), "timeout": refusals("timeout")}
		errs := make(chan error, 4)
		ask := func() { _, _, err := send(tr, get(t)); errs <- err }
		for range 3 { // one served, two waiting
			go ask()
		}
		synctest.Wait()
		go ask() // one too many
		synctest.Wait()
		is503 := func(err error, want error) {
			t.Helper()
			var he caddyhttp.HandlerError
			var de reverseproxy.DialError
			if !errors.As(err, &he) || he.StatusCode != 503 || !errors.As(err, &de) || !strings.Contains(err.Error(), want.Error()) {
				t.Errorf("error = %v, want a 503 dial error: %v", err, want)
			}
		}
		select {
		case err := <-errs:
			is503(err, connpool.ErrQueueFull)
		default:
			t.Fatal("a third request waits")
		}
		start := time.Now()
		is503(<-errs, connpool.ErrAcquireTimeout)
		is503(<-errs, connpool.ErrAcquireTimeout)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("waited %v, want the default of 5 s", d)
		}
		if err := <-errs; err != nil {
			t.Errorf("the request under way: %v", err)
		}
		if st := onlyPool(t, tr).snapshot(); st.Refused != 3 || st.Waiting != 0 {
			t.Errorf("state = %+v", st)
		}
		for reason, want := range map[string]float64{"queue_full": 1, "timeout": 2} {
			if got := refusals(reason) - before[reason]; got != want {
				t.Errorf("%s was counted %v times, want %v", reason, got, want)
			}
		}
	})
}

// Towards HTTP/1.0, a body of unknown length is read before there is a connection.
// When there is none then, lb_retries may still go elsewhere: another round trip of
// the request reads its body from the beginning.
func TestFullPoolIs503ForABodyThatWasRead(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 1 }, func(t *testing.T, tr *Transport, _ *pipeServer) {
		scripted(tr, func(n int64, c net.Conn, r *bufio.Reader) {
			if readRequest(r) == nil {
				return
			}
			if n > 1 {
				time.Sleep(time.Minute)
			}
			io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
		})
		mustSend(t, tr, get(t))
		done := make(chan string)
		go func() { done <- mustSend(t, tr, get(t)) }()
		synctest.Wait()
		req := newRequest(t, "POST", pipeAddr, io.NopCloser(strings.NewReader("x=1")))
		req.ContentLength = -1
		_, _, err := send(tr, req)
		var he caddyhttp.HandlerError
		var de reverseproxy.DialError
		if !errors.As(err, &he) || he.StatusCode != http.StatusServiceUnavailable || !errors.As(err, &de) {
			t.Errorf("error = %v, want a 503 that is a DialError", err)
		}
		if got, err := io.ReadAll(bodyOf(req).First()); err != nil || string(got) != "x=1" {
			t.Errorf("another round trip reads %q, %v", got, err)
		}
		<-done
	})
}

// A dial has timeouts of its own: acquire_timeout does not cut off requests that a
// dial under way is for, also where dials take up all of max_conns_per_host.
func TestAcquireTimeoutIsNoDialTimeout(t *testing.T) {
	for _, tc := range []struct {
		name               string
		maxConns, requests int
		failed             int
	}{
		{"unlimited", 0, 3, 0},
		{"room for more", 4, 3, 0},
		{"full of dials", 3, 3, 0},
		{"full, and one has no dial", 2, 3, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) {
				tr.MaxConnsPerHost = tc.maxConns
				tr.DialTimeout = caddy.Duration(10 * time.Second)
			}, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.delay.Store(int64(6 * time.Second))
				errs := make(chan error, tc.requests)
				for range tc.requests {
					go func() { _, _, err := send(tr, get(t)); errs <- err }()
				}
				failed := 0
				for range tc.requests {
					if err := <-errs; err != nil {
						failed++
					}
				}
				if failed != tc.failed {
					t.Errorf("%d requests failed, want %d", failed, tc.failed)
				}
			})
		})
	}
}

// A request that cannot use what is idle gets a place in a full pool.
func TestFullPoolMakesRoom(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 1 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		mustSend(t, tr, get(t))
		time.Sleep(time.Second) // too old for a POST while nothing is known
		if got := mustSend(t, tr, post(t)); got != "2" {
			t.Errorf("connection %s, want a new one", got)
		}
		time.Sleep(5 * time.Second) // none becomes a sensor: that would take the only place
		if got := mustSend(t, tr, post(t)); got != "3" || s.mostOpen.Load() != 1 {
			t.Errorf("connection %s, at most %d at once", got, s.mostOpen.Load())
		}
	})
}

// Others that a full pool keeps busy do not starve a replay, which needs a fresh
// connection: when its turn comes, one is replaced, and no more than that one.
func TestFullPoolMakesRoomInTurn(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(100 * time.Millisecond)
		var wg sync.WaitGroup
		defer wg.Wait()
		for range 6 {
			wg.Go(func() {
				for range 30 {
					mustSend(t, tr, get(t))
				}
			})
		}
		time.Sleep(time.Second + 50*time.Millisecond)
		p, start := onlyPool(t, tr), time.Now()
		s.delay.Store(int64(500 * time.Millisecond))
		l, err := p.Acquire(t.Context(), connpool.Need{Freshness: connpool.Fresh})
		if err != nil || l.Reused {
			t.Fatalf("granted %+v, %v, want a fresh connection", l, err)
		}
		// The four that waited before get the two connections twice; then one is
		// replaced.
		if d := time.Since(start); d > time.Second {
			t.Errorf("after %v", d)
		}
		l.Unused()
		if n := p.snapshot().Closes[connpool.CloseReplaced]; n != 1 {
			t.Errorf("%d connections replaced, want 1", n)
		}
	})
}

// Nor do they starve a POST, which takes no connection that was idle for 500 ms while
// nothing is known: here none is younger when its response has been read.
func TestFullPoolMakesRoomForAPost(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for range 6 {
			wg.Go(func() {
				for range 20 {
					resp, err := tr.RoundTrip(get(t))
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(600 * time.Millisecond)
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		time.Sleep(2*time.Second + 50*time.Millisecond)
		// The four that waited before get the two connections twice; then one is
		// replaced.
		start := time.Now()
		mustSend(t, tr, post(t))
		if d := time.Since(start); d > 3*600*time.Millisecond {
			t.Errorf("after %v", d)
		}
		if n := onlyPool(t, tr).snapshot().Closes[connpool.CloseReplaced]; n != 1 {
			t.Errorf("%d connections replaced, want 1", n)
		}
	})
}

// No more connections are replaced than those that wait need: none for whom a dial
// is under way already.
func TestFullPoolReplacesNoMoreThanNeeded(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		maxConns, busy, fresh int
		replaced              int64
	}{
		{"a dial takes the last place", 5, 4, 1, 0},
		{"dials for half of those that wait", 6, 4, 4, 2},
		{"no place for a dial", 4, 4, 2, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = tc.maxConns }, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.setLatency(100 * time.Millisecond)
				var wg sync.WaitGroup
				for range tc.busy {
					wg.Go(func() { mustSend(t, tr, get(t)) })
				}
				synctest.Wait()
				p := onlyPool(t, tr)
				s.delay.Store(int64(500 * time.Millisecond))
				for range tc.fresh {
					wg.Go(func() {
						l, err := p.Acquire(t.Context(), connpool.Need{Freshness: connpool.Fresh})
						if err != nil || l.Reused {
							t.Errorf("granted %+v, %v, want a fresh connection", l, err)
							return
						}
						l.Unused()
					})
				}
				wg.Wait()
				if n := p.snapshot().Closes[connpool.CloseReplaced]; n != tc.replaced {
					t.Errorf("%d connections replaced, want %d", n, tc.replaced)
				}
			})
		})
	}
}

// A sensor gives its place in a full pool to a request.
func TestSensorGivesWay(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(time.Second)
		done := make(chan string, 2)
		ask := func() { done <- mustSend(t, tr, get(t)) }
		go ask()
		go ask()
		<-done
		<-done
		time.Sleep(3900 * time.Millisecond)
		synctest.Wait()
		if st := onlyPool(t, tr).snapshot().Connections; st["sensor"] != 1 {
			t.Fatalf("connections = %v, want a sensor", st)
		}
		start := time.Now()
		go ask()
		go ask()
		<-done
		<-done
		if d := time.Since(start); d != time.Second || s.mostOpen.Load() > 2 {
			t.Errorf("two requests took %v, with %d connections at most", d, s.mostOpen.Load())
		}
		if st := onlyPool(t, tr).snapshot(); st.Closes[connpool.CloseSensor] != 1 {
			t.Errorf("closes = %v", st.Closes)
		}
	})
}

// While requests wait for a full pool, no connection becomes a sensor: here one
// whose response was read so slowly that it is at its limit already.
func TestNoSensorWhileRequestsWait(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		slow, err := tr.RoundTrip(get(t))
		if err != nil {
			t.Fatal(err)
		}
		s.setLatency(time.Minute)
		long := make(chan string)
		go func() { long <- mustSend(t, tr, get(t)) }()
		synctest.Wait()
		time.Sleep(4 * time.Second)
		s.setLatency(0)
		start, done := time.Now(), make(chan string)
		go func() { done <- mustSend(t, tr, get(t)) }()
		synctest.Wait()
		io.Copy(io.Discard, slow.Body)
		slow.Body.Close()
		if got := <-done; got != "3" || time.Since(start) != 0 {
			t.Errorf("connection %s after %v, want a new one at once", got, time.Since(start))
		}
		<-long
	})
}

// A cancelled wait leaves nothing behind; its dial joins the pool.
func TestDialOutlivesItsRequest(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.delay.Store(int64(time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := tr.RoundTrip(requestTo(t, ctx, "GET", "tcp", pipeAddr, nil)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("err = %v", err)
		}
		time.Sleep(time.Second)
		start := time.Now()
		s.header.Store("Connection: keep-alive\r\nKeep-Alive: timeout=9")
		if got := mustSend(t, tr, get(t)); got != "1" || time.Since(start) != 0 {
			t.Errorf("connection %s after %v, want the first one at once", got, time.Since(start))
		}
		if !s.asked.Load() {
			t.Error("its first request did not ask for the timeout")
		}
	})
}

// Of dials whose requests are gone, no more join the pool than it may hold idle.
func TestDialsBeyondWhatMayBeIdle(t *testing.T) {
	for _, tc := range []struct {
		name string
		keep reverseproxy.KeepAlive
		min  int
		want int
	}{
		{"unlimited", reverseproxy.KeepAlive{}, 0, 5},
		{"keepalive_idle_conns_per_host", reverseproxy.KeepAlive{MaxIdleConnsPerHost: 1}, 0, 1},
		{"keepalive_idle_conns", reverseproxy.KeepAlive{MaxIdleConns: 2}, 0, 2},
		{"as many as min_idle", reverseproxy.KeepAlive{MaxIdleConns: 3}, 3, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) { tr.KeepAlive, tr.MinIdle = &tc.keep, tc.min }, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.delay.Store(int64(time.Second))
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				for range 5 {
					go func() { _, _, _ = send(tr, requestTo(t, ctx, "GET", "tcp", pipeAddr, nil)) }()
				}
				time.Sleep(1100 * time.Millisecond)
				if st := onlyPool(t, tr).snapshot(); st.Connections["idle"] != tc.want {
					t.Errorf("connections = %v, want %d idle", st.Connections, tc.want)
				}
			})
		})
	}
}

// A request takes a connection that becomes free before its own dial is done.
func TestFreedBeforeDialed(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setLatency(2 * time.Second)
		first := make(chan string)
		go func() { first <- mustSend(t, tr, get(t)) }()
		synctest.Wait()
		s.delay.Store(int64(10 * time.Second))
		start := time.Now()
		if got := mustSend(t, tr, get(t)); got != "1" {
			t.Errorf("connection %s", got)
		}
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("took %v, want 2 s of waiting and 2 s of latency", d)
		}
		<-first
		time.Sleep(10 * time.Second)
	})
}

// Whoever waits while a connection is on its way back, and then cannot use it, gets
// a dial: here a replay, and a connection whose request net/http refused.
func TestDialWhenWhatComesBackIsOfNoUse(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		mustSend(t, tr, get(t))
		synctest.Wait()
		p := onlyPool(t, tr)
		l := acquire(t, p, connpool.Need{})
		bad := get(t)
		bad.URL.Scheme = "http"
		bad.Header["Bad Name"] = []string{"x"}
		_, err := l.RoundTrip(bad)
		if err == nil {
			t.Fatal("no error")
		}
		start, fresh := time.Now(), make(chan connpool.Lease)
		go func() { fresh <- acquire(t, p, connpool.Need{Freshness: connpool.Fresh}) }()
		synctest.Wait()
		l.Fail(err, false)
		f := <-fresh
		if d := time.Since(start); f.Reused || d > 0 {
			t.Errorf("granted %+v after %v, want a fresh connection at once", f, d)
		}
		f.Unused()
	})
}

func TestDialErrorIsForOneRequest(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.refuse.Store(true)
		for range 3 {
			_, _, err := send(tr, get(t))
			var de reverseproxy.DialError
			if !errors.As(err, &de) {
				t.Errorf("err = %v, want a DialError", err)
			}
		}
		synctest.Wait()
		if n := len(tr.core.all()); n != 0 {
			t.Errorf("%d pools are left", n)
		}
	})
}
