package connpool

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// bound is what a request with credentials needs, without what one of the same client
// connection needs that has none.
func bound(o *Owner) Need { return Need{Replayable: true, Bodyless: true, Owner: o, Bound: true} }
func without(o *Owner) Need {
	return Need{Replayable: true, Bodyless: true, Owner: o}
}

// number sends a GET and returns the number of its connection, on when that is back.
func number(t *testing.T, b *bench, n Need) string {
	t.Helper()
	l := mustAcquire(t, b.Pool, n)
	got, err := get(&l)
	if err != nil {
		t.Error(err)
	}
	return got
}
func on(t *testing.T, b *bench, n Need) string {
	t.Helper()
	defer synctest.Wait()
	return number(t, b, n)
}

// expect compares connection numbers.
func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: connection %s, want %s", what, got, want)
	}
}

// A pinned connection carries nobody else's requests, and all of its owner's. Requests
// without credentials of an owner without a pin are like anybody's.
//
// Checklist: P30.
func TestOwnersConnection(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice, bob := new(Owner), new(Owner)
		expect(t, "nobody's", on(t, b, anything), "1")
		expect(t, "alice's first", on(t, b, bound(alice)), "2")
		expect(t, "nobody's", on(t, b, anything), "1")
		expect(t, "bob's without credentials", on(t, b, without(bob)), "1")
		expect(t, "bob's first", on(t, b, bound(bob)), "3")
		expect(t, "alice's", on(t, b, without(alice)), "2")
		expect(t, "alice's with credentials", on(t, b, bound(alice)), "2")
		expect(t, "bob's", on(t, b, without(bob)), "3")
		if st := b.Snapshot().Connections; st["pinned"] != 2 || st["idle"] != 1 {
			t.Error(st)
		}
	})
}

// Later requests of an owner wait for its connection, whatever that takes, and dial
// none of their own.
//
// Checklist: P30.
func TestOwnerWaitsForItsConnection(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice := new(Owner)
		l := mustAcquire(t, b.Pool, bound(alice))
		got := make(chan string)
		for range 3 {
			go func() { got <- number(t, b, without(alice)) }()
		}
		time.Sleep(time.Minute)
		if b.dials.Load() != 1 || b.Snapshot().Waiting != 3 {
			t.Errorf("%d dials, %d waiting", b.dials.Load(), b.Snapshot().Waiting)
		}
		_, _ = get(&l)
		for range 3 {
			expect(t, "waited", <-got, "1")
		}
	})
}

// When the connection of an owner fails, the next request that waits for it dials.
//
// Checklist: P30.
func TestOwnerWhoseConnectionEnds(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice := new(Owner)
		l := mustAcquire(t, b.Pool, bound(alice))
		got := make(chan string)
		for range 2 {
			go func() { got <- number(t, b, without(alice)) }()
		}
		synctest.Wait()
		l.c.net.Conn.Conn.Close()
		_, _ = get(&l)
		for range 2 {
			expect(t, "waited", <-got, "2")
		}
		expect(t, "nobody's", on(t, b, anything), "3")
	})
}

// A founder that gives up before its dial ends has a successor. The connection that
// was dialed for it is anybody's, unless the owner waits.
//
// Checklist: P30.
func TestFounderGivesUp(t *testing.T) {
	slow := func(_ *Config, b *bench) {
		b.dialing = func(int64) error { time.Sleep(time.Second); return nil }
	}
	for _, successor := range []bool{true, false} {
		inBubble(t, slow, func(t *testing.T, b *bench) {
			alice := new(Owner)
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error)
			go func() {
				_, err := acquire(ctx, b.Pool, bound(alice))
				failed <- err
			}()
			synctest.Wait()
			got := make(chan string, 1)
			if successor {
				go func() { got <- number(t, b, bound(alice)) }()
			}
			synctest.Wait()
			cancel()
			if err := <-failed; err == nil {
				t.Error("it got a connection")
			}
			if successor {
				expect(t, "successor", <-got, "1")
				return
			}
			if time.Sleep(2 * time.Second); b.Pins() {
				t.Error("a pin is left")
			}
			expect(t, "nobody's", on(t, b, anything), "1")
		})
	}
}

// Dials of an owner that fail are told to all its requests, and leave nothing behind.
func TestOwnersDialFails(t *testing.T) {
	dead := func(_ *Config, b *bench) {
		b.dialing = func(int64) error { time.Sleep(time.Second); return net.ErrClosed }
	}
	inBubble(t, dead, func(t *testing.T, b *bench) {
		alice, failed := new(Owner), make(chan error)
		for range 3 {
			go func() {
				_, err := acquire(t.Context(), b.Pool, bound(alice))
				failed <- err
			}()
		}
		for range 3 {
			if err := <-failed; err == nil {
				t.Error("it got a connection")
			}
		}
		synctest.Wait()
		if b.Pins() || b.Snapshot().Waiting > 0 || alice.Kept() {
			t.Error("something is left")
		}
	})
}

// A challenge pins the connection; without credentials that lasts for 15 s.
//
// Checklist: P30.
func TestChallengedConnection(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice := new(Owner)
		l := mustAcquire(t, b.Pool, anything)
		_, _ = get(&l)
		synctest.Wait()
		l.Pin(alice)
		expect(t, "another's", on(t, b, anything), "2")
		expect(t, "alice's", on(t, b, without(alice)), "1")
		time.Sleep(14 * time.Second)
		if n := b.Snapshot().Connections["pinned"]; n != 1 {
			t.Errorf("%d pinned", n)
		}
		time.Sleep(1500 * time.Millisecond)
		if n := b.Snapshot().Connections["pinned"]; n != 0 || b.seen.closed(ClosePinned) != 1 {
			t.Errorf("%d pinned", n)
		}
	})
}

// With credentials it lasts for as long as any idle connection.
func TestAuthenticatedConnectionIsKept(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice := new(Owner)
		l := mustAcquire(t, b.Pool, anything)
		_, _ = get(&l)
		synctest.Wait()
		l.Pin(alice)
		expect(t, "with credentials", on(t, b, bound(alice)), "1")
		time.Sleep(30 * time.Second)
		expect(t, "without", on(t, b, without(alice)), "1")
	})
}

// A challenge that comes late changes nothing on a connection that is somebody else's
// by then, or carries other requests: no credentials have travelled on it.
func TestChallengeComesLate(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice, bob := new(Owner), new(Owner)
		l := mustAcquire(t, b.Pool, anything)
		_, _ = get(&l)
		synctest.Wait()
		other := mustAcquire(t, b.Pool, anything)
		if l.Pin(alice); b.Pins() {
			t.Error("pinned with another's request on it")
		}
		_, _ = get(&other)
		synctest.Wait()
		other.Pin(bob)
		if l.Pin(alice); b.pins[alice] != nil || b.pins[bob] == nil {
			t.Error("not bob's any more")
		}
	})
}

// Whatever an owner does when it ends, its connection ends: at once if it is idle,
// with its request if it carries one.
//
// Checklist: P30.
func TestOwnerEnds(t *testing.T) {
	for name, when := range map[string]func(t *testing.T, b *bench, alice *Owner){
		"before":           func(t *testing.T, b *bench, alice *Owner) { alice.End(); on(t, b, bound(alice)) },
		"while it is idle": func(t *testing.T, b *bench, alice *Owner) { on(t, b, bound(alice)); alice.End() },
		"during a request": func(t *testing.T, b *bench, alice *Owner) {
			l := mustAcquire(t, b.Pool, bound(alice))
			alice.End()
			_, _ = get(&l)
		},
		"before a challenge": func(t *testing.T, b *bench, alice *Owner) {
			l := mustAcquire(t, b.Pool, anything)
			_, _ = get(&l)
			synctest.Wait()
			alice.End()
			l.Pin(alice)
		},
		"before a request is given back": func(t *testing.T, b *bench, alice *Owner) {
			l := mustAcquire(t, b.Pool, bound(alice))
			alice.End()
			l.Unused()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, b *bench) {
				alice := new(Owner)
				when(t, b, alice)
				synctest.Wait()
				st := b.Snapshot().Connections
				if st["pinned"]+st["idle"]+st["busy"] != 0 || b.seen.closed(ClosePinned) != 1 || b.Pins() || alice.Kept() {
					t.Error(st, b.seen.closes)
				}
			})
		})
	}
}

// A replay asks for a fresh connection. Its owner has one only, so that is given up,
// when it carries no request any more.
//
// Checklist: P30.
func TestOwnersReplay(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice := new(Owner)
		again := bound(alice)
		again.Freshness = Fresh
		expect(t, "first", on(t, b, bound(alice)), "1")
		expect(t, "again", on(t, b, again), "2")
		l := mustAcquire(t, b.Pool, without(alice))
		got := make(chan string)
		go func() { got <- number(t, b, again) }()
		synctest.Wait()
		_, _ = get(&l)
		expect(t, "again, after another", <-got, "3")
		if again.Freshness = FreshIfRoom; on(t, b, again) != "3" {
			t.Error("a refused stream is no reason to give it up")
		}
		synctest.Wait()
		if n := b.Snapshot().Connections["pinned"]; n != 1 || b.seen.closed(ClosePinned) != 2 {
			t.Errorf("%d pinned, %v", n, b.seen.closes)
		}
	})
}

// What is too old for a request that cannot be replayed is given up.
func TestOwnersConnectionIsTooOld(t *testing.T) {
	assumed := func(cfg *Config, _ *bench) { cfg.Idle.KeepAlive = 0 }
	inBubble(t, assumed, func(t *testing.T, b *bench) {
		alice := new(Owner)
		on(t, b, bound(alice))
		time.Sleep(3 * time.Second)
		post := bound(alice)
		post.Replayable = false
		expect(t, "POST", on(t, b, post), "2")
		expect(t, "GET", on(t, b, without(alice)), "2")
	})
}

// When its configuration is gone, a pinned connection stays for as long as its owner:
// what needs two requests to log in could not do so otherwise.
//
// Checklist: P30.
func TestOwnerOutlivesConfiguration(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		alice := new(Owner)
		busy := mustAcquire(t, b.Pool, anything)
		b.group.Retire()
		expect(t, "first", on(t, b, bound(alice)), "2")
		expect(t, "second", on(t, b, bound(alice)), "2")
		_, _ = get(&busy)
		alice.End()
		synctest.Wait()
		if b.seen.closed(CloseDrained) != 1 || b.seen.closed(ClosePinned) != 1 {
			t.Error(b.seen.closes)
		}
	})
}
