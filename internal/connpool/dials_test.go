package connpool

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A dial that hangs is one dial's matter: others follow, twice as long apart each
// time, and at most eight.
func TestHedgedDials(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		withH2(cfg, b)
		b.dialing = func(int64) error { time.Sleep(time.Hour); return errors.New("gone") }
	}, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		for range 20 {
			go acquire(ctx, b.Pool, anything)
		}
		var at []int64 // dials after so many seconds
		for range 16 {
			synctest.Wait()
			at = append(at, b.dials.Load())
			time.Sleep(time.Second)
		}
		if at[0] != 1 || at[1] != 2 || at[2] != 2 || at[3] != 3 || at[7] != 4 || at[15] != 5 {
			t.Errorf("dials after each second = %v", at)
		}
		time.Sleep(30 * time.Minute)
		if n := b.dials.Load(); n != 8 {
			t.Errorf("%d dials hang, want 8", n)
		}
		if n := b.seen.hedges(); n != 7 {
			t.Errorf("%d dials were told as hedged, want all but the first", n)
		}
		cancel()
		time.Sleep(time.Hour)
	})
}

// A hedge is sooner where dials are known to be quick. There is none for a request
// that waits alone: more dials than requests are nobody's need.
func TestHedgeAfterQuickDials(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		withH2(cfg, b)
		cfg.MaxRequests = 2
		b.dialing = func(n int64) error {
			if n == 2 {
				time.Sleep(time.Minute)
			}
			return nil
		}
	}, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		mustGet(t, b.Pool)
		b.Pool = b.another() // that one has ended with its connection
		start := time.Now()
		took := make(chan time.Duration)
		for range 2 {
			go func() {
				l := mustAcquire(t, b.Pool, anything)
				took <- time.Since(start)
				if _, err := get(&l); err != nil {
					t.Error(err)
				}
			}()
		}
		if d := <-took; d != 250*time.Millisecond {
			t.Errorf("the first request waited %v", d)
		}
		if d := <-took; d != 250*time.Millisecond {
			t.Errorf("the second request waited %v", d)
		}
		if n := b.dials.Load(); n != 3 || b.seen.hedges() != 1 {
			t.Errorf("%d dials, %d of them hedged, want 3 and 1", n, b.seen.hedges())
		}
		time.Sleep(time.Minute)
	})
}

// A failed dial is told to one request, and to all when the next one fails alike.
func TestFailedDialIsToldTo(t *testing.T) {
	refused := errors.New("refused")
	for _, tc := range []struct {
		name   string
		fails  func(n int64) error
		failed int
		dials  int64
	}{
		{"one, if it is the only one", func(n int64) error {
			if n == 1 {
				return refused
			}
			return nil
		}, 1, 2},
		{"all, if the next fails alike", func(int64) error { return refused }, 10, 2},
		{"one each, if they fail in different ways", func(n int64) error { return errors.New(string(rune('a' + n))) }, 10, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(cfg *Config, b *bench) {
				withH2(cfg, b)
				b.dialing = func(n int64) error { time.Sleep(time.Millisecond); return tc.fails(n) }
			}, func(t *testing.T, b *bench) {
				errs := make(chan error)
				for range 10 {
					go func() {
						l, err := acquire(t.Context(), b.Pool, anything)
						if err == nil {
							_, err = get(&l)
						}
						errs <- err
					}()
				}
				failed := 0
				for range 10 {
					if <-errs != nil {
						failed++
					}
				}
				if failed != tc.failed || b.dials.Load() != tc.dials {
					t.Errorf("%d requests failed after %d dials, want %d after %d", failed, b.dials.Load(), tc.failed, tc.dials)
				}
			})
		})
	}
}

// The failed dial of a request that is gone fails no other one.
func TestFailedDialOfAGoneRequest(t *testing.T) {
	inBubble(t, func(_ *Config, b *bench) {
		b.dialing = func(n int64) error {
			time.Sleep(time.Duration(n) * time.Second)
			if n == 1 {
				return errors.New("refused")
			}
			return nil
		}
	}, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		go acquire(ctx, b.Pool, anything)
		synctest.Wait()
		if got := mustGet(t, b.Pool); got != "2" {
			t.Errorf("answered by connection %s", got)
		}
	})
}

// A connection whose response is complete is not idle yet: nobody has looked for surplus
// bytes. A request that comes in the moment until then waits for it.
func TestNoDialWhileOneReturns(t *testing.T) {
	for _, complete := range []bool{false, true} {
		inBubble(t, nil, func(t *testing.T, b *bench) {
			l := mustAcquire(t, b.Pool, anything)
			resp, err := begin(&l)
			if err != nil {
				t.Fatal(err)
			}
			read := func() {
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Error(err)
				}
			}
			w := &waiter{need: anything, grant: make(chan grant, 1)}

			b.lock() // keeps it from becoming idle
			if complete {
				read()
			}
			b.waiting.Add(1)
			b.queue.push(w)
			b.startDialsLocked(time.Now())
			dials := b.lists[dialing].Len()
			b.unlock()

			if want := map[bool]int{false: 1, true: 0}[complete]; dials != want {
				t.Errorf("response complete: %v: %d dials, want %d", complete, dials, want)
			}
			if !complete {
				read()
			}
			g := <-w.grant
			if b.waiting.Add(-1); complete && g.c != l.c {
				t.Errorf("granted %+v, want the connection that returned", g)
			}
			b.giveBack(g.c)
			synctest.Wait()
		})
	}
}

// Dials for MinIdle that fail are further and further apart, and end with the
// configuration or an hour after the last request.
func TestWarmDials(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.MinIdle = 1
		b.dialing = func(n int64) error {
			if n > 1 {
				return errors.New("refused")
			}
			return nil
		}
	}, func(t *testing.T, b *bench) {
		l := mustAcquire(t, b.Pool, anything)
		synctest.Wait()
		time.Sleep(time.Minute)
		if n := b.dials.Load(); n < 5 || n > 9 {
			t.Errorf("%d dials in a minute", n)
		}
		time.Sleep(30 * time.Minute)
		if n := b.dials.Load(); n < 30 || n > 45 {
			t.Errorf("%d dials in 31 minutes", n)
		}
		before := b.dials.Load()
		b.group.Renew()
		time.Sleep(2 * time.Minute)
		if n := b.dials.Load() - before; n > 1 {
			t.Errorf("%d dials after another configuration took over", n)
		}
		l.Unused()
	})
}

// The socket of a failed dial may be closed after the dial has been given up, as
// that of a TLS handshake is. It never was a connection.
func TestSocketOfFailedDialIsClosedLate(t *testing.T) {
	inBubble(t, func(_ *Config, b *bench) {
		b.wrapped = func(c net.Conn) error {
			time.AfterFunc(time.Second, func() { _ = c.Close() })
			return errors.New("TLS handshake timeout")
		}
	}, func(t *testing.T, b *bench) {
		if _, err := acquire(t.Context(), b.Pool, anything); err == nil {
			t.Error("a failed dial led to a connection")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.seen.failed == 0 || len(b.seen.closes) > 0 {
			t.Errorf("%d failed dials and closes %v, want no close", b.seen.failed, b.seen.closes)
		}
	})
}
