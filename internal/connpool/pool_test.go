package connpool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

func withH2(_ *Config, b *bench) {
	b.h2 = true
	b.serve = frames(func(n int64, f *peer) {
		for stream := nextRequest(f); stream != 0; stream = nextRequest(f) {
			respond(f, stream, fmt.Sprint(n))
		}
	})
}

// What counts is the age at take-out: the timer may be late.
func TestIdleLimitAtTakeOut(t *testing.T) {
	for _, tc := range []struct {
		idle time.Duration
		want string
	}{{57*time.Second - 1, "1"}, {57 * time.Second, "2"}} {
		inBubble(t, nil, func(t *testing.T, b *bench) {
			mustGet(t, b.Pool)
			b.mu.Lock()
			b.timer.Stop()
			b.mu.Unlock()
			time.Sleep(tc.idle)
			if got := mustGet(t, b.Pool); got != tc.want {
				t.Errorf("after %v answered by connection %s, want %s", tc.idle, got, tc.want)
			}
		})
	}
}

// A request whose context is done takes nothing.
func TestDoneRequestTakesNothing(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		gone, cancel := context.WithCancel(t.Context())
		l := mustAcquire(t, b.Pool, anything)
		cancel()
		if _, err := acquire(gone, b.Pool, anything); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v", err)
		}
		req, _ := http.NewRequestWithContext(gone, "GET", "http://upstream.test/", nil)
		_, err := l.RoundTrip(req)
		if f := l.Fail(err, false); err == nil || !f.Ours {
			t.Errorf("error = %v, %+v", err, f)
		}
		synctest.Wait()
		if got := mustGet(t, b.Pool); got != "1" || b.dials.Load() != 1 {
			t.Errorf("answered by connection %s of %d", got, b.dials.Load())
		}
	})
}

// No place is made in a full pool for a request that is then refused.
func TestRefusedRequestClosesNothing(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxConns, cfg.MaxPending = 1, 0 }, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		if _, err := acquire(t.Context(), b.Pool, Need{Freshness: Fresh}); err != ErrQueueFull {
			t.Errorf("error = %v", err)
		}
		synctest.Wait()
		if got := mustGet(t, b.Pool); got != "1" {
			t.Errorf("answered by connection %s", got)
		}
	})
}

// An active health check does not queue: it has one connection beyond the limit,
// which is closed afterwards. Several take turns.
func TestProbeIsBeyondTheLimit(t *testing.T) {
	for _, probes := range []int{1, 3} {
		inBubble(t, func(cfg *Config, b *bench) {
			cfg.MaxConns = 1
			b.dialing = func(int64) error { time.Sleep(100 * time.Millisecond); return nil }
		}, func(t *testing.T, b *bench) {
			l := mustAcquire(t, b.Pool, anything)
			var answered sync.WaitGroup
			for range probes {
				answered.Go(func() {
					start := time.Now()
					probe := mustAcquire(t, b.Pool, Need{Replayable: true, Bodyless: true, Probe: true})
					if _, err := get(&probe); err != nil || time.Since(start) > time.Duration(probes)*100*time.Millisecond {
						t.Errorf("%d at once: after %v: %v", probes, time.Since(start), err)
					}
				})
			}
			synctest.Wait()
			if n := b.Snapshot().Connections; n["dialing"] != 1 {
				t.Errorf("%d at once: connections = %v, want one beyond the limit", probes, n)
			}
			answered.Wait()
			synctest.Wait()
			if n := b.Snapshot().Connections; n["busy"] != 1 || n["idle"] != 0 {
				t.Errorf("%d at once: connections = %v", probes, n)
			}
			l.Unused()
		})
	}
}

// The oldest idle connection of all pools goes first.
func TestIdleConnectionsOfAllPools(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxIdle = 2 }, func(t *testing.T, b *bench) {
		pools := []*Pool{b.Pool, b.another(), b.another()}
		for _, p := range pools {
			mustGet(t, p)
			time.Sleep(time.Second)
		}
		for i, want := range []int{0, 1, 1} {
			if n := pools[i].Snapshot().Connections["idle"]; n != want {
				t.Errorf("pool %d has %d idle connections, want %d", i, n, want)
			}
		}
		if n := b.group.Idle(); n != 2 || b.seen.closed(CloseMaxIdle) != 1 {
			t.Errorf("%d idle connections, %d closed for that", n, b.seen.closed(CloseMaxIdle))
		}
		for _, p := range pools {
			p.Drain()
		}
	})
}

// Idle connections above the need are let go, half of the excess a second. The oldest go
// first.
func TestNotNeeded(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		var used []Lease
		for range 100 {
			used = append(used, mustAcquire(t, b.Pool, Need{Freshness: Fresh}))
		}
		for _, l := range used { // which become idle in this order
			if _, err := get(&l); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		idle := func() int { synctest.Wait(); return b.Snapshot().Connections["idle"] }
		for _, at := range []struct {
			after time.Duration
			most  int
			least int
		}{{4 * time.Second, 100, 100}, {12 * time.Second, 67, 32}, {20 * time.Second, 32, 32}} {
			time.Sleep(at.after)
			if n := idle(); n < at.least || n > at.most {
				t.Errorf("%d idle connections after %v more, want %d to %d", n, at.after, at.least, at.most)
			}
		}
		var left []Lease
		for range 32 {
			left = append(left, mustAcquire(t, b.Pool, anything))
		}
		for i, l := range left { // the youngest is taken first
			if got, err := get(&l); err != nil || got != fmt.Sprint(100-i) {
				t.Errorf("connection %s is left, %v; want the youngest 32 of 100, as %d", got, err, 100-i)
			}
		}
	})
}

// A connection comes back while it is given back, unused, to a request that waits:
// something without meaning has arrived (a TLS session ticket) just then. It carries
// that request now, and must not be handed to another one as well.
func TestReturnedWhileGivenBack(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxConns = 1 }, func(t *testing.T, b *bench) {
		l := mustAcquire(t, b.Pool, Need{})
		waiting := make(chan Lease)
		go func() { waiting <- mustAcquire(t, b.Pool, anything) }()
		synctest.Wait()
		b.mu.Lock()
		l.c.cc.Release()
		b.unusedLocked(l.c, time.Now())
		b.unlock()
		b.returned(l.c, time.Now())
		next := <-waiting
		if n := b.Snapshot().Connections; n["busy"] != 1 {
			t.Errorf("the connection that carries a request counts as %v", n)
		}
		next.Unused()
	})
}

// An upstream closes connections by age, and one client asks in regular steps: at each
// close, the connection had been idle for as long. It had outlived that many times, so
// connections are used for as long as they are open.
func TestRegularRequestsToAnUpstreamThatClosesByAge(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.Idle.KeepAlive = 0
		b.serve = func(n int64, c net.Conn) {
			time.AfterFunc(29*time.Second, func() { c.Close() })
			answer(n, c)
		}
	}, func(t *testing.T, b *bench) {
		const requests, each = 300, 15 // 2 s apart, on each connection
		p := b.Pool
		for range requests {
			l, err := acquire(t.Context(), p, anything)
			if err == ErrGone { // with its last connection
				p = b.another()
				l, err = acquire(t.Context(), p, anything)
			}
			if err == nil {
				_, err = get(&l)
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		if n := b.dials.Load(); n > requests/each+5 {
			t.Errorf("%d connections for %d requests, want %d or so", n, requests, requests/each)
		}
	})
}

// Lifetimes are shortened at random, so that connections do not end together.
func TestLifetimes(t *testing.T) {
	const longest = time.Duration(math.MaxInt64)
	for _, tc := range []struct {
		life   time.Duration
		jitter int
		least  time.Duration
	}{
		{100 * time.Second, 10, 90 * time.Second},
		{100 * time.Second, 100, 0},
		{longest, 100, 0},
	} {
		cfg := Config{MaxLifetime: tc.life, Jitter: tc.jitter}
		least, most := longest, time.Duration(0)
		for range 1000 {
			least, most = min(least, cfg.life()), max(most, cfg.life())
		}
		if least < tc.least || most > tc.life || most-least < (tc.life-tc.least)/5*4 {
			t.Errorf("lifetimes from %v to %v, want %v to %v", least, most, tc.least, tc.life)
		}
	}
}

// An upstream that ends each connection before it can be used fails requests as
// one that cannot be dialed; they do not dial again and again.
func TestUnusableFromTheStart(t *testing.T) {
	for name, serve := range map[string]func(int64, net.Conn){
		"closed": func(int64, net.Conn) {},
		"GOAWAY": frames(func(_ int64, f *peer) {
			f.goAway(0)
			nextRequest(f)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(_ *Config, b *bench) { b.h2, b.serve = name == "GOAWAY", serve }, func(t *testing.T, b *bench) {
				l, err := acquire(t.Context(), b.Pool, Need{})
				if err == nil { // the end had not arrived yet
					_, err = get(&l)
				}
				if synctest.Wait(); err == nil || b.dials.Load() != 1 {
					t.Errorf("%d dials, error %v; want one after the first", b.dials.Load(), err)
				}
			})
		})
	}
}

// SETTINGS that allow no stream are no GOAWAY: the connection stays, nothing is
// learned, and requests go on when there are streams again.
func TestNoStreamsForNow(t *testing.T) {
	const none, again = 500 * time.Millisecond, 2 * time.Second
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.Idle.KeepAlive = 0
		b.h2 = true
		b.serve = frames(func(n int64, f *peer) {
			respond(f, nextRequest(f), fmt.Sprint(n))
			if n == 1 {
				time.AfterFunc(none, func() { f.allow(0) })
				time.AfterFunc(again, func() { f.allow(5) })
			}
			for stream := nextRequest(f); stream != 0; stream = nextRequest(f) {
				respond(f, stream, fmt.Sprint(n))
			}
		})
	}, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		time.Sleep(none + 200*time.Millisecond)
		synctest.Wait()
		if n := b.memory.H2.Observed(); n != 0 || b.Snapshot().Connections["idle"] != 1 {
			t.Errorf("%d closes were observed; connections = %v", n, b.Snapshot().Connections)
		}
		if got := mustGet(t, b.Pool); got != "2" {
			t.Errorf("answered by connection %s, which allows no stream", got)
		}
		time.Sleep(again - none)
		synctest.Wait()
		b.mu.Lock()
		b.closeLocked(b.lists[idle].Last(), CloseDrained) // the second one
		b.unlock()
		synctest.Wait()
		if got := mustGet(t, b.Pool); got != "1" {
			t.Errorf("answered by connection %s", got)
		}
	})
}

// A GOAWAY on an idle connection is a close: it teaches, and no stream follows.
func TestGoAwayWhileIdle(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.Idle.KeepAlive = 0
		b.h2 = true
		b.serve = frames(func(n int64, f *peer) {
			stream := nextRequest(f)
			respond(f, stream, fmt.Sprint(n))
			time.AfterFunc(time.Second, func() { f.goAway(stream) })
			if nextRequest(f) != 0 {
				t.Error("a stream after GOAWAY")
			}
		})
	}, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if n := b.memory.H2.Observed(); n != 1 || b.seen.closed(CloseUpstream) != 1 {
			t.Errorf("%d closes were observed, closes = %v", n, b.seen.closes)
		}
		if l := b.memory.H2.Limit(time.Now(), idletime.Optional{}); l.Bound != idletime.BoundEarlyClose {
			t.Errorf("limit = %v, want it capped by the close", l)
		}
	})
}

// An HTTP/2 connection that takes no more requests leaves its place in a full pool
// to another one, though a stream goes on; its orderly end is no failure.
func TestDrainingLeavesItsPlace(t *testing.T) {
	for _, how := range []string{"GOAWAY", "max_lifetime", "max_requests"} {
		t.Run(how, func(t *testing.T) {
			inBubble(t, func(cfg *Config, b *bench) {
				cfg.MaxConns = 1
				switch how {
				case "max_lifetime":
					cfg.MaxLifetime = 10 * time.Second
				case "max_requests":
					cfg.MaxRequests = 2
				}
				b.h2 = true
				b.serve = frames(func(n int64, f *peer) {
					respond(f, nextRequest(f), fmt.Sprint(n))
					if n > 1 {
						nextRequest(f)
						return
					}
					stream := nextRequest(f) // answered a minute later
					if how == "GOAWAY" {
						f.goAway(stream)
					}
					time.AfterFunc(time.Minute, func() { respond(f, stream, "late") })
					nextRequest(f)
				})
			}, func(t *testing.T, b *bench) {
				mustGet(t, b.Pool)
				late := make(chan string)
				go func() {
					l := mustAcquire(t, b.Pool, anything)
					body, err := get(&l)
					if err != nil {
						t.Error(err)
					}
					late <- body
				}()
				time.Sleep(20 * time.Second)
				start := time.Now()
				l := mustAcquire(t, b.Pool, anything)
				if got, err := get(&l); err != nil || got != "2" || time.Since(start) > 0 {
					t.Errorf("answered by connection %s after %v, %v", got, time.Since(start), err)
				}
				if got := <-late; got != "late" {
					t.Errorf("the stream under way ended with %q", got)
				}
				if synctest.Wait(); b.seen.closed(CloseFailed) != 0 {
					t.Errorf("closes = %v", b.seen.closes)
				}
			})
		})
	}
}

// Requests beyond what a new connection turns out to allow wait in the queue, and
// a connection takes one until its SETTINGS are here.
func TestStreamLimitOfNewConnections(t *testing.T) {
	for _, limit := range []uint32{1, 3, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			inBubble(t, func(_ *Config, b *bench) {
				b.h2 = true
				b.serve = frames(func(n int64, f *peer) {
					var open atomic.Int32
					for stream := nextRequest(f); stream != 0; stream = nextRequest(f) {
						if n := open.Add(1); n > int32(limit) {
							t.Errorf("%d streams at once", n)
						}
						time.AfterFunc(time.Second, func() {
							open.Add(-1)
							respond(f, stream, "")
						})
					}
				}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: limit})
			}, func(t *testing.T, b *bench) {
				done := make(chan error)
				start := time.Now()
				for range 20 {
					go func() {
						l := mustAcquire(t, b.Pool, anything)
						_, err := get(&l)
						done <- err
					}()
				}
				for range 20 {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("took %v", d)
				}
				if n := b.memory.Streams.Limit(); n != int(limit) {
					t.Errorf("%d streams were learned", n)
				}
			})
		})
	}
}

// Age counts on an HTTP/2 connection whose streams have ended though a client still
// reads.
func TestAgeOfAConnectionThatIsStillRead(t *testing.T) {
	inBubble(t, withH2, func(t *testing.T, b *bench) {
		l := mustAcquire(t, b.Pool, anything)
		resp, err := begin(&l)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(57*time.Second - 1)
		if got := mustGet(t, b.Pool); got != "1" {
			t.Errorf("just below the limit answered by connection %s", got)
		}
		time.Sleep(57 * time.Second)
		if got := mustGet(t, b.Pool); got != "2" {
			t.Errorf("at the limit answered by connection %s", got)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	})
}

// A server that serves one connection at a time answers soon, and from the third time
// on at once.
func TestOneConnectionAtATime(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.Idle.KeepAlive = 0 // an idle connection is soon too old for a POST
		turn := make(chan bool, 1)
		b.serve = func(n int64, c net.Conn) {
			turn <- true
			answer(n, c)
			<-turn
		}
	}, func(t *testing.T, b *bench) {
		for i, most := range []time.Duration{0, 1250 * time.Millisecond, 1750 * time.Millisecond, 0, 0} {
			start := time.Now()
			l := mustAcquire(t, b.Pool, Need{})
			if _, err := get(&l); err != nil || time.Since(start) > most {
				t.Errorf("request %d took %v, %v", i, time.Since(start), err)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
	})
}

// Neither a page that takes long nor a client that gives up makes an upstream one that
// serves one connection at a time.
func TestSlowPagesMakeNoUpstreamSerial(t *testing.T) {
	for name, test := range map[string]struct{ page, client time.Duration }{
		"the page takes as long as it takes to yield": {1100 * time.Millisecond, time.Minute},
		"the client gives up right then":              {time.Minute, 1100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(cfg *Config, b *bench) {
				b.serve = func(n int64, c net.Conn) {
					if n%2 == 0 {
						time.Sleep(test.page)
					}
					answer(n, c)
				}
			}, func(t *testing.T, b *bench) {
				for range 5 {
					p := b.another() // of the same upstream, the last one is gone
					rests := mustAcquire(t, p, Need{Freshness: Fresh})
					slow := mustAcquire(t, p, Need{Freshness: Fresh})
					if _, err := get(&rests); err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), test.client)
					req, _ := http.NewRequestWithContext(ctx, "GET", "http://upstream.test/", nil)
					if resp, err := slow.RoundTrip(req); err != nil {
						slow.Fail(err, true)
					} else {
						slow.Done(resp, time.Now())
						resp.Body.Close()
					}
					time.Sleep(time.Minute)
					cancel()
					if h1, now := b.known.H1, time.Now(); h1.Serial(now) || !h1.MayYield(now) {
						t.Fatalf("taken for a serial one: %t, may yield: %t", h1.Serial(now), h1.MayYield(now))
					}
				}
			})
		})
	}
}

// The first connection that turns out to be dead makes others as old suspect: they
// are closed before a request meets them, too.
func TestOneDeadConnectionOfMany(t *testing.T) {
	inBubble(t, func(_ *Config, b *bench) {
		b.serve = func(n int64, c net.Conn) {
			r := bufio.NewReader(c)
			for i := 0; i < 2 || n == 4; i++ {
				if _, err := http.ReadRequest(r); err != nil || i == 1 && n < 4 {
					return // dead, but nobody can see it
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n)
			}
		}
	}, func(t *testing.T, b *bench) {
		openMany(t, b.Pool, 3)
		time.Sleep(40 * time.Second)
		l := mustAcquire(t, b.Pool, anything)
		if got, err := get(&l); err == nil {
			t.Errorf("answered by connection %s", got)
		}
		synctest.Wait()
		if n := b.seen.closed(CloseSuspect); n == 0 || b.Snapshot().Connections["idle"] != 0 {
			t.Errorf("%d closed, connections = %v", n, b.Snapshot().Connections)
		}
		if p := b.Pool; p.gone {
			b.Pool = b.another()
		}
		if got := mustGet(t, b.Pool); got != "4" {
			t.Errorf("answered by connection %s", got)
		}
	})
}

// A connection that did not look alive, but waits for data again, is handed out: what
// its socket had was a session ticket of TLS, or the like.
func TestSuspicionEnds(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		l := mustAcquire(t, b.Pool, anything)
		b.distrust(l.c)
		if got := mustGet(t, b.Pool); got != "1" {
			t.Errorf("answered by connection %s", got)
		}
	})
}
