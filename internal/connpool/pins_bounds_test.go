package connpool

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// In a full pool connections that are anybody's make room before pinned ones, whose owners
// would have to log in again.
func TestPinnedMakesRoomLast(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxConns = 2 }, func(t *testing.T, b *bench) {
		alice, bob := new(Owner), new(Owner)
		expect(t, "alice's", on(t, b, bound(alice)), "1")
		time.Sleep(time.Second)
		expect(t, "nobody's", on(t, b, anything), "2")
		expect(t, "bob's", on(t, b, bound(bob)), "3")
		expect(t, "alice's", on(t, b, bound(alice)), "1")
	})
}

// In a full pool the oldest pinned connection makes room, whoever waits.
//
// Checklist: P30.
func TestPinnedMakesRoom(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxConns = 2 }, func(t *testing.T, b *bench) {
		alice, bob, carol := new(Owner), new(Owner), new(Owner)
		for _, owner := range []*Owner{alice, bob, carol} {
			on(t, b, bound(owner))
			time.Sleep(time.Second)
		}
		expect(t, "carol's", on(t, b, without(carol)), "3")
		if b.pins[alice] != nil || b.pins[bob] == nil {
			t.Error("not the oldest")
		}
		busy := mustAcquire(t, b.Pool, bound(bob))
		expect(t, "nobody's", on(t, b, anything), "4")
		if b.pins[bob] == nil || b.pins[carol] != nil {
			t.Error("not the idle one")
		}
		got := make(chan string)
		one := mustAcquire(t, b.Pool, anything)
		go func() { got <- number(t, b, anything) }()
		synctest.Wait()
		_, _ = get(&busy) // comes back while somebody waits
		expect(t, "waited", <-got, "5")
		one.Unused()
	})
}

// A connection makes no room in the middle of a login, for a second. Whoever waits gets a
// connection once the login is complete, or has taken longer.
//
// Checklist: P30.
func TestLoginIsNotInterrupted(t *testing.T) {
	for _, completes := range []bool{true, false} {
		inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxConns = 1 }, func(t *testing.T, b *bench) {
			alice, bob := new(Owner), new(Owner)
			expect(t, "alice's first step", on(t, b, bound(alice)), "1")
			got := make(chan string)
			start := time.Now()
			go func() { got <- number(t, b, bound(bob)) }()
			time.Sleep(900 * time.Millisecond)
			if completes {
				expect(t, "alice's second step", number(t, b, bound(alice)), "1")
			}
			expect(t, "bob's", <-got, "2")
			if took := time.Since(start); took < 900*time.Millisecond || took > 1300*time.Millisecond {
				t.Errorf("completes=%v: bob waited for %v", completes, took)
			}
		})
	}
}

// Pinned connections count as idle ones where these are limited.
func TestPinnedAreBounded(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.MaxIdlePerPool = 2 }, func(t *testing.T, b *bench) {
		for range 5 {
			on(t, b, bound(new(Owner)))
			time.Sleep(time.Second)
		}
		expect(t, "nobody's", on(t, b, anything), "6")
		if st := b.Snapshot().Connections; st["pinned"] != 1 || st["idle"] != 1 || b.seen.closed(CloseMaxIdle) != 4 {
			t.Error(st, b.seen.closes)
		}
	})
}

// Neither the sensor nor what is kept warm is pinned, and neither is ever taken by an
// owner: its connection is opened for it.
func TestPinnedIsNoSensor(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.MinIdle = 1
		b.dialing = func(n int64) error { // the first request waits, and gets what is there first
			time.Sleep(time.Duration(n) * time.Millisecond)
			return nil
		}
	}, func(t *testing.T, b *bench) {
		alice := new(Owner)
		expect(t, "nobody's", on(t, b, anything), "1")
		time.Sleep(time.Second) // what is kept warm is there, too
		expect(t, "alice's", on(t, b, bound(alice)), "3")
		time.Sleep(61 * time.Second)
		st := b.Snapshot().Connections
		if st["pinned"] != 0 || st["idle"] != 1 || b.seen.closed(CloseIdleLimit) == 0 {
			t.Error(st, b.seen.closes)
		}
	})
}

// Ten thousand client connections pin one connection each, and all are gone with them.
//
// Checklist: P30.
func TestManyOwners(t *testing.T) {
	many := race.Fewer(10_000)
	inBubble(t, nil, func(t *testing.T, b *bench) {
		owners := make([]Owner, many)
		for i := range owners {
			for range 2 {
				l := mustAcquire(t, b.Pool, bound(&owners[i]))
				_, _ = get(&l)
			}
		}
		synctest.Wait()
		if n := b.Snapshot().Connections["pinned"]; n != len(owners) || b.dials.Load() != int64(len(owners)) {
			t.Errorf("%d pinned, %d dials", n, b.dials.Load())
		}
		expect(t, "nobody's", on(t, b, anything), strconv.Itoa(many+1))
		for i := range owners {
			owners[i].End()
		}
		synctest.Wait()
		if n := b.Snapshot().Connections["pinned"]; n != 0 || b.Pins() || b.seen.closed(ClosePinned) != len(owners) {
			t.Errorf("%d pinned", n)
		}
	})
}

// Thousands that reach their limit one after the other are looked through together, and
// not once for each of them, which takes 50 times as long. To open them takes longer.
func TestManyOwnersLeaveInTurn(t *testing.T) {
	clock := make(chan time.Time) // of the world outside the bubble
	go func() {
		for {
			select {
			case clock <- time.Now():
			case <-t.Context().Done():
				return
			}
		}
	}()
	inBubble(t, nil, func(t *testing.T, b *bench) {
		now := func() time.Time {
			<-clock // one that had been waiting to be taken
			return <-clock
		}
		owners := make([]Owner, race.Fewer(5000))
		began := now()
		for i := range owners {
			on(t, b, bound(&owners[i]))
			time.Sleep(2 * time.Millisecond)
		}
		opened := now()
		time.Sleep(time.Minute)
		synctest.Wait()
		if took, most := now().Sub(opened), 2*opened.Sub(began); took > most {
			t.Errorf("it took %v, want at most twice what opening them took, %v", took, most)
		}
		if n := b.Snapshot().Connections["pinned"]; n != 0 || b.seen.closed(CloseIdleLimit) != len(owners) {
			t.Errorf("%d pinned", n)
		}
	})
}
