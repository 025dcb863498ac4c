package connpool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
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

// Requests that wait while dials fail get what comes first: a connection that was busy, or
// the error. That is the one of their own dial, or of two in a row that they have seen
// begin. With a busy connection, it is not the latter for as long as one would wait in a
// full pool.
func TestFailedDialsWhileOneIsBusy(t *testing.T) {
	const ms, never = time.Millisecond, time.Hour
	full := func(cfg *Config, b *bench) { cfg.MaxConns = 2 }
	tenStreams := func(_ *Config, b *bench) {
		b.h2 = true
		b.serve = frames(func(n int64, f *peer) {
			for stream := nextRequest(f); stream != 0; stream = nextRequest(f) {
				respond(f, stream, fmt.Sprint(n))
			}
		}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10})
	}
	somebody := new(Owner)
	for _, tc := range []struct {
		name   string
		change func(cfg *Config, b *bench)
		holder Need          // of the connection that is busy
		busy   time.Duration // for so long
		fails  time.Duration // every further dial, after so long
		waiter Need          // of each of ten that wait
		served int           // of these
		last   time.Duration // when the last one was served or told
	}{
		{"a full pool: one dial at a time", full, anything, 1000 * ms, 300 * ms, anything, 7, 1000 * ms},
		{"so with requests that cannot be replayed", full, anything, 1000 * ms, 300 * ms, Need{}, 7, 1000 * ms},
		{"dials that fail at once", full, anything, 1000 * ms, 10 * ms, anything, 0, 100 * ms},
		{"a connection without an end", full, anything, never, 2000 * ms, anything, 0, 6000 * ms},
		{"HTTP/2: one dial, later two", tenStreams, anything, 900 * ms, 400 * ms, anything, 7, 900 * ms},
		{"streams without an end", tenStreams, anything, never, 2000 * ms, anything, 0, 5750 * ms},
		{"a request that needs a new connection", tenStreams, anything, 100 * ms, 2000 * ms, Need{Freshness: Fresh}, 0, 2250 * ms},
		{"a connection for one request", func(cfg *Config, b *bench) { full(cfg, b); cfg.MaxRequests = 1 },
			anything, 1000 * ms, 300 * ms, anything, 0, 600 * ms},
		{"one that is another's", full, Need{Owner: somebody, Bound: true, Freshness: Fresh}, 1000 * ms, 300 * ms, anything, 0, 600 * ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(cfg *Config, b *bench) {
				tc.change(cfg, b)
				b.dialing = func(n int64) error {
					if n > 1 {
						time.Sleep(tc.fails)
						return errors.New("refused")
					}
					return nil
				}
			}, func(t *testing.T, b *bench) {
				held := []Lease{mustAcquire(t, b.Pool, tc.holder)}
				for synctest.Wait(); b.h2 && len(held) < 10; {
					held = append(held, mustAcquire(t, b.Pool, tc.holder))
				}
				release := func() {
					for _, l := range held {
						l.Unused()
					}
				}
				start := time.Now()
				var served atomic.Int64
				var waiters sync.WaitGroup
				for range 10 {
					waiters.Go(func() {
						if l, err := acquire(t.Context(), b.Pool, tc.waiter); err == nil {
							served.Add(1)
							if _, err := get(&l); err != nil {
								t.Error(err)
							}
						}
					})
				}
				ends := time.AfterFunc(tc.busy, release)
				waiters.Wait()
				if last := time.Since(start); int(served.Load()) != tc.served || last != tc.last {
					t.Errorf("%d were served, and the last one knew after %v; want %d and %v", served.Load(), last, tc.served, tc.last)
				}
				if ends.Stop() {
					release()
				}
				somebody.End()
			})
		})
	}
}

// Dials hang that were begun for requests which found a busy connection first, and then
// fail together. Who waits at that moment hears of none: it saw no dial begin.
func TestOldDialsFailNobodyNew(t *testing.T) {
	inBubble(t, func(_ *Config, b *bench) {
		start := time.Now()
		b.dialing = func(n int64) error {
			if n == 1 {
				return nil
			}
			const once = 10 * time.Second // DNS tells all that it does not answer
			time.Sleep(once - time.Since(start)%once + time.Duration(n)*time.Millisecond)
			return errors.New("timeout")
		}
	}, func(t *testing.T, b *bench) {
		held := mustAcquire(t, b.Pool, anything)
		release := func() {
			if _, err := get(&held); err != nil {
				t.Error(err)
			}
		}
		for range 2 {
			time.Sleep(4700 * time.Millisecond)
			next := make(chan Lease)
			go func() { next <- mustAcquire(t, b.Pool, anything) }()
			synctest.Wait()
			release()
			held = <-next
		}
		time.AfterFunc(time.Second, release)
		if got := mustGet(t, b.Pool); got != "1" || b.dials.Load() != 4 {
			t.Errorf("answered by connection %s after %d dials, want 1, and 4: two failed", got, b.dials.Load())
		}
		time.Sleep(time.Minute)
	})
}

// Where dials take long to fail, none is worth more than two of them.
func TestDialsThatFailSlowly(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		withH2(cfg, b)
		b.dialing = func(int64) error { time.Sleep(10 * time.Second); return errors.New("timeout") }
	}, func(t *testing.T, b *bench) {
		start := time.Now()
		var told sync.WaitGroup
		for range 20 {
			told.Go(func() {
				if _, err := acquire(t.Context(), b.Pool, anything); err == nil {
					t.Error("it got a connection")
				}
			})
		}
		told.Wait()
		if d := time.Since(start); d != 11*time.Second {
			t.Errorf("the last one was told after %v, want 11 s: a second dial begins after one", d)
		}
	})
}

// A dial hangs whose request is gone. That neither delays the next request by more than it
// usually takes to open a connection, nor keeps the error from it.
func TestNextRequestBesideAHangingDial(t *testing.T) {
	refused := errors.New("refused")
	for _, tc := range []struct {
		name  string
		after time.Duration // the dial began
		err   error         // of the next one
		took  time.Duration
		dials int64
	}{
		{"it may be of use yet", 400 * time.Millisecond, nil, 600 * time.Millisecond, 2},
		{"it has taken long", 2 * time.Second, nil, 0, 2},
		{"it is no hope for others", 2 * time.Second, refused, 0, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(_ *Config, b *bench) {
				b.dialing = func(n int64) error {
					if n > 1 {
						return tc.err
					}
					time.Sleep(10 * time.Second)
					return errors.New("timeout")
				}
			}, func(t *testing.T, b *bench) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_, _ = acquire(ctx, b.Pool, anything)
				time.Sleep(tc.after - time.Millisecond)
				start := time.Now()
				l, err := acquire(t.Context(), b.Pool, anything)
				if took := time.Since(start); !errors.Is(err, tc.err) || took != tc.took || b.dials.Load() != tc.dials {
					t.Errorf("%v after %v and %d dials; want %v after %v and %d", err, took, b.dials.Load(), tc.err, tc.took, tc.dials)
				}
				if err == nil {
					l.Unused()
				}
				time.Sleep(time.Minute)
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
			b.waiters.Add(1)
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
			if b.waiters.Add(-1); complete && g.c != l.c {
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

// In a full pool, a dial is the hope of as many requests as its connection will serve, and
// of no others.
func TestAcquireTimeoutBesideADial(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.MaxConns, b.h2 = 2, true
		b.serve = frames(func(_ int64, f *peer) {
			for nextRequest(f) != 0 { // without an answer
			}
		}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
		b.dialing = func(n int64) error {
			if n > 1 {
				time.Sleep(6500 * time.Millisecond)
			}
			return nil
		}
	}, func(t *testing.T, b *bench) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begin := func() error {
			l, err := acquire(ctx, b.Pool, anything)
			if err == nil {
				go func() {
					req, _ := http.NewRequestWithContext(ctx, "GET", "http://upstream.test/", nil)
					_, err := l.RoundTrip(req)
					l.Fail(err, true)
				}()
			}
			return err
		}
		for range 2 {
			if err := begin(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		start := time.Now()
		var served, refused atomic.Int64
		for range 5 {
			go func() {
				switch err := begin(); {
				case err == nil:
					served.Add(1)
				case err == ErrAcquireTimeout && time.Since(start) <= 5*time.Second:
					refused.Add(1)
				default:
					t.Errorf("%v after %s", err, time.Since(start))
				}
			}()
			synctest.Wait()
		}
		time.Sleep(8 * time.Second)
		if served.Load() != 2 || refused.Load() != 3 {
			t.Errorf("%d requests were served and %d refused, want 2 and 3", served.Load(), refused.Load())
		}
	})
}
