package upstreampool

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/resolve"
)

// doubted returns when DNS has given up the only address that answers.
func doubted(t *testing.T, tr *Transport, z *zone) {
	t.Helper()
	mustSend(t, tr, get(t))
	z.names(newAddr)
	for onlyPool(t, tr).doubt.Load() == nil {
		time.Sleep(time.Second)
		if z.lookups.Load() > 10 {
			t.Fatal("no doubt")
		}
	}
}

// A doubt that a response has ended does not come back by a look from before it.
func TestDoubtThatIsSettledStaysSo(t *testing.T) {
	following(t, known, func(t *testing.T, tr *Transport, z *zone) {
		logs, seen := observer.New(zap.InfoLevel)
		tr.core.users.last.Store(zap.New(logs))
		doubted(t, tr, z)
		p := onlyPool(t, tr)
		d, before := p.doubt.Load(), p.Remotes()
		if got := mustSend(t, tr, get(t)); got != newAddr || p.doubt.Load() != nil {
			t.Fatalf("answered by %s, doubt %v", got, p.doubt.Load())
		}
		var answers resolve.History
		for range 10 {
			answers.Add([]netip.Addr{netip.MustParseAddr(newAddr)})
		}
		p.judge(d, before, &answers)
		if p.doubt.Load() != nil {
			t.Error("the doubt is back")
		}
		if n := seen.Len(); n != 1 {
			t.Errorf("%d log entries, want that the old address is left: %v", n, seen.All())
		}
	})
}

// A pool that is gone says nothing about an address.
func TestPoolThatIsGoneAccusesNobody(t *testing.T) {
	following(t, known, func(t *testing.T, tr *Transport, z *zone) {
		logs, seen := observer.New(zap.InfoLevel)
		tr.core.users.last.Store(zap.New(logs))
		doubted(t, tr, z)
		p := onlyPool(t, tr)
		p.Drain()
		synctest.Wait()
		n := connpool.Need{Replayable: true}
		if p.acquireNew(t.Context(), n, p.doubt.Load(), new(connpool.Lease)) || seen.Len() != 0 {
			t.Errorf("log: %v", seen.All())
		}
	})
}

// silent hosts take a request each, and end. It takes a while to connect to them.
func silent(after time.Duration) func(string, net.Conn) (bool, error) {
	return func(_ string, c net.Conn) (bool, error) {
		time.Sleep(after)
		go func() {
			_, _ = c.Read(make([]byte, 1024))
			c.Close()
		}()
		return true, nil
	}
}

// A connection to an address that has not answered yet may come out of the pool: the
// request that it was dialed for has found another one. If nobody answers there, the
// next request is repeated on an old one, like one that tries.
func TestUnansweredConnectionOfPool(t *testing.T) {
	following(t, known, func(t *testing.T, tr *Transport, z *zone) {
		doubted(t, tr, z)
		z.hosts(silent(time.Second))
		p := onlyPool(t, tr)
		p.doubt.Load().triedAt.Store(time.Now().UnixNano())
		l := acquire(t, p, connpool.Need{Replayable: true})
		answered := make(chan string)
		go func() { answered <- mustSend(t, tr, get(t)) }()
		synctest.Wait()
		l.Unused()
		if got := <-answered; got != oldAddr {
			t.Errorf("answered by %q", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := p.snapshot().Connections["idle"]; n != 2 {
			t.Fatalf("%d idle connections, want 2", n)
		}
		if got := mustSend(t, tr, get(t)); got != oldAddr {
			t.Errorf("answered by %q", got)
		}
	})
}

// A client that leaves says nothing about the addresses that DNS names.
func TestClientLeavesDuringTrial(t *testing.T) {
	following(t, known, func(t *testing.T, tr *Transport, z *zone) {
		doubted(t, tr, z)
		logs, seen := observer.New(zap.WarnLevel)
		tr.core.users.last.Store(zap.New(logs))
		z.hosts(func(addr string, c net.Conn) (bool, error) { time.Sleep(500 * time.Millisecond); return false, nil })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := send(tr, requestTo(t, ctx, "GET", "tcp", pipeAddr, nil)); err == nil {
			t.Error("it got an answer")
		}
		if n := seen.Len(); n > 0 {
			t.Error(seen.All())
		}
	})
}

// Of the requests that cannot be repeated none is lost for a try, as long as there are
// others: neither as the one that tries, nor on what took too long for that to open.
func TestTriesLoseNothing(t *testing.T) {
	for name, slow := range map[string]time.Duration{"at once": 0, "slowly": 1400 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			following(t, known, func(t *testing.T, tr *Transport, z *zone) {
				doubted(t, tr, z)
				z.hosts(silent(slow))
				for range 600 {
					for _, req := range []*http.Request{post(t), get(t)} {
						if got := mustSend(t, tr, req); got != oldAddr {
							t.Fatalf("answered by %q", got)
						}
						time.Sleep(500 * time.Millisecond)
					}
				}
				time.Sleep(slow)
			})
		})
	}
}

// An address that takes longer to connect to than a request waits is tried as well, by
// requests of any kind.
func TestSlowAddressIsTried(t *testing.T) {
	for name, request := range map[string]func(testing.TB) *http.Request{
		"GET":  func(t testing.TB) *http.Request { return newRequest(t, "GET", pipeAddr, nil) },
		"POST": func(t testing.TB) *http.Request { return newRequest(t, "POST", pipeAddr, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			following(t, known, func(t *testing.T, tr *Transport, z *zone) {
				doubted(t, tr, z)
				z.hosts(func(string, net.Conn) (bool, error) { time.Sleep(1400 * time.Millisecond); return false, nil })
				for began := time.Now(); mustSend(t, tr, request(t)) != newAddr; time.Sleep(500 * time.Millisecond) {
					if time.Since(began) > time.Minute {
						t.Fatal("the new address was not tried")
					}
				}
				time.Sleep(2 * time.Second)
			})
		})
	}
}
