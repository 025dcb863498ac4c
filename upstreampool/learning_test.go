package upstreampool

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

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
			for i := 0; fake.ReadRequest(r) != nil; i++ {
				if i > 0 && n == 1 {
					time.Sleep(after)
					return
				}
				fake.Respond(c, "")
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
					for req := fake.ReadRequest(r); req != nil && req.Method != "DELETE"; req = fake.ReadRequest(r) {
						fake.Respond(c, strconv.FormatInt(n, 10))
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
