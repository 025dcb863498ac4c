package connpool

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// numbered answers HTTP/2 requests with the number of the connection.
func numbered(_ *Config, b *bench) {
	b.h2 = true
	b.serve = frames(func(n int64, p *peer) {
		for stream := nextRequest(p); stream != 0; stream = nextRequest(p) {
			respond(p, stream, string(rune('0'+n)))
		}
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10})
}

// An HTTP/2 connection of an owner has streams for all its requests, and for nobody
// else's. Each owner's is dialed at once.
//
// Checklist: P30.
func TestOwnersOfHTTP2(t *testing.T) {
	inBubble(t, numbered, func(t *testing.T, b *bench) {
		alice, bob := new(Owner), new(Owner)
		on(t, b, anything)
		b.dialing = func(int64) error { time.Sleep(time.Second); return nil }
		began, leases := time.Now(), make(chan Lease)
		for _, n := range []Need{bound(alice), without(alice), bound(bob)} {
			go func() { leases <- mustAcquire(t, b.Pool, n) }()
			synctest.Wait()
		}
		conns := make(map[*conn]int)
		for range 3 {
			l := <-leases
			conns[l.c]++
			if _, err := get(&l); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took > time.Second || len(conns) != 2 {
			t.Errorf("%d connections after %v", len(conns), took)
		}
		expect(t, "nobody's", on(t, b, anything), "1")
		open := mustAcquire(t, b.Pool, without(alice))
		expect(t, "nobody's beside alice's", on(t, b, anything), "1")
		if one := mustAcquire(t, b.Pool, without(alice)); one.c != open.c {
			t.Error("alice has another connection")
		} else {
			one.Unused()
		}
		alice.End()
		_, _ = get(&open)
		synctest.Wait()
		if st := b.Snapshot().Connections; st["pinned"] != 1 || st["busy"] != 0 {
			t.Error(st)
		}
	})
}

// An HTTP/2 connection that carries requests of several is not pinned by a challenge
// to one of them. What authenticates goes elsewhere.
//
// Checklist: P30.
func TestChallengeOnSharedConnection(t *testing.T) {
	inBubble(t, numbered, func(t *testing.T, b *bench) {
		alice := new(Owner)
		on(t, b, anything)
		one, two := mustAcquire(t, b.Pool, anything), mustAcquire(t, b.Pool, anything)
		if one.c != two.c {
			t.Fatal("not shared")
		}
		_, _ = get(&one)
		if one.Pin(alice); b.Pins() {
			t.Error("pinned with another's request on it")
		}
		expect(t, "alice's", on(t, b, bound(alice)), "2")
		_, _ = get(&two)
	})
}

// An HTTP/2 connection that goes away takes no more requests of its owner either.
func TestOwnersGoAway(t *testing.T) {
	leaves := make(chan *peer, 10)
	inBubble(t, func(_ *Config, b *bench) {
		b.h2 = true
		b.serve = frames(func(n int64, p *peer) {
			leaves <- p
			for stream := nextRequest(p); stream != 0; stream = nextRequest(p) {
				respond(p, stream, string(rune('0'+n)))
			}
		}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10})
	}, func(t *testing.T, b *bench) {
		alice := new(Owner)
		expect(t, "first", on(t, b, bound(alice)), "1")
		other := mustAcquire(t, b.Pool, anything) // the pool is not empty
		l := mustAcquire(t, b.Pool, without(alice))
		(<-leaves).goAway(1<<31 - 1)
		synctest.Wait()
		expect(t, "after GOAWAY", on(t, b, bound(alice)), "3")
		_, _ = get(&l)
		expect(t, "after GOAWAY", on(t, b, without(alice)), "3")
		other.Unused()
	})
}

// Requests of an owner that wait for its connection to be opened share it with the
// founder at once if its SETTINGS have arrived by then, however long that one takes.
func TestOwnersWaitForNoResponse(t *testing.T) {
	inBubble(t, numbered, func(t *testing.T, b *bench) {
		dial := b.opt.Dial
		b.opt.Dial = func(d *Dial) (Dialed, error) {
			defer time.Sleep(time.Second) // SETTINGS arrive meanwhile
			return dial(d)
		}
		alice := new(Owner)
		opened := make(chan Lease, 2)
		for range 2 {
			go func() { opened <- mustAcquire(t, b.Pool, bound(alice)) }()
		}
		one := <-opened
		time.Sleep(time.Minute)
		select {
		case two := <-opened:
			if two.c != one.c {
				t.Error("on two connections")
			}
			two.Unused()
		default:
			t.Error("the second one waits for the first one's response")
		}
		one.Unused()
	})
}
