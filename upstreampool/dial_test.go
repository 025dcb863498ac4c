package upstreampool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
)

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
			if _, ok := errors.AsType[reverseproxy.DialError](err); !ok {
				t.Errorf("err = %v, want a DialError", err)
			}
		}
		synctest.Wait()
		if n := len(tr.core.all()); n != 0 {
			t.Errorf("%d pools are left", n)
		}
	})
}
