package upstreampool

import (
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

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
	requests := needs.InLong(10_000, 3000)
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
			if n := run(t, tr, s, requests); n != 0 {
				t.Errorf("%d of %d requests failed", n, requests)
			}
		})
	})
	t.Run("learning", func(t *testing.T) {
		bubble(t, nil, func(t *testing.T, tr *Transport, s *pipeServer) {
			if n := run(t, tr, s, requests); n != 0 {
				t.Errorf("%d of %d requests failed", n, requests)
			}
		})
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
