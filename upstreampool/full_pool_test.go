package upstreampool

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

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

// A negative limit is none, as with transport http, and the pool goes with its last
// connection.
func TestNegativeMaxConnsIsNoLimit(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost = -1 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.delay.Store(int64(time.Second))
		var requests sync.WaitGroup
		start := time.Now()
		for range 10 {
			requests.Go(func() { mustSend(t, tr, get(t)) })
		}
		if requests.Wait(); time.Since(start) != time.Second {
			t.Errorf("10 requests took %v, want a second, which a dial takes", time.Since(start))
		}
		time.Sleep(5 * time.Minute)
		if n := len(tr.core.all()); n != 0 {
			t.Errorf("%d pools are left", n)
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
			if fake.ReadRequest(r) == nil {
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
		again, err := bodyOf(req)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(again.First()); err != nil || string(got) != "x=1" {
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
		var l connpool.Lease
		err := p.Acquire(t.Context(), connpool.Need{Freshness: connpool.Fresh}, &l)
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
						var l connpool.Lease
						err := p.Acquire(t.Context(), connpool.Need{Freshness: connpool.Fresh}, &l)
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
