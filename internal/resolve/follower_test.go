package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const interval = 30 * time.Second

// A name is looked up at each interval for as long as there is a reason to, and
// from anew when there is one again.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lookups, applied atomic.Int64
		var wanted atomic.Bool
		wanted.Store(true)
		old, now := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		var gone atomic.Bool
		f := NewFollower(interval,
			func(_ context.Context, host string) ([]netip.Addr, error) {
				if host != "h.test" {
					t.Errorf("%s was looked up", host)
				}
				if lookups.Add(1) == 1 {
					return []netip.Addr{old}, nil
				}
				return []netip.Addr{now}, nil
			},
			func(_ string, h *History) bool {
				applied.Add(1)
				gone.Store(h.Gone(old))
				return wanted.Load()
			})
		defer f.Stop()
		for range 100 {
			if !f.Follow("h.test") {
				t.Fatal("a name is not followed")
			}
		}
		if f.Follow("192.0.2.1") || f.Follow("::1") || f.Follow("") {
			t.Error("an address is followed")
		}
		time.Sleep(4 * interval * 11 / 10)
		if n := lookups.Load(); n < 4 || n > 5 || applied.Load() != n {
			t.Errorf("%d lookups and %d answers in four intervals", n, applied.Load())
		}
		if !gone.Load() {
			t.Error("a name that has moved still has its old address after four intervals")
		}
		wanted.Store(false)
		time.Sleep(2 * interval)
		n := lookups.Load()
		time.Sleep(time.Hour)
		if more := lookups.Load() - n; more > 0 {
			t.Errorf("%d lookups of a name that nobody wants", more)
		}
		f.Follow("h.test")
		time.Sleep(2 * interval)
		if lookups.Load() == n {
			t.Error("no lookup of a name that is wanted again")
		}
	})
}

// A name that is wanted again at the moment when it is given up stays followed.
func TestFollowWhileGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lookups atomic.Int64
		var f *Follower
		f = NewFollower(interval,
			func(context.Context, string) ([]netip.Addr, error) { lookups.Add(1); return nil, nil },
			func(host string, _ *History) bool { return !f.Follow(host) })
		defer f.Stop()
		f.Follow("h.test")
		time.Sleep(10 * interval)
		if n := lookups.Load(); n < 8 {
			t.Errorf("%d lookups in ten intervals", n)
		}
	})
}

// A resolver that fails or times out changes nothing, and is asked again.
func TestFailingLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := netip.MustParseAddr("192.0.2.1")
		var lookups atomic.Int64
		f := NewFollower(interval,
			func(ctx context.Context, _ string) ([]netip.Addr, error) {
				switch n := lookups.Add(1); {
				case n <= 3:
					return []netip.Addr{a}, nil
				case n%2 == 0:
					return nil, errors.New("no such host")
				}
				<-ctx.Done()
				return nil, ctx.Err()
			},
			func(_ string, h *History) bool {
				if h.Gone(a) {
					t.Error("given up by lookups that failed")
				}
				return true
			})
		defer f.Stop()
		f.Follow("h.test")
		time.Sleep(100 * interval)
		if n := lookups.Load(); n < 70 {
			t.Errorf("%d lookups in 100 intervals", n)
		}
	})
}

// However many names there are, lookups and memory are bounded, and nothing is left
// after Stop.
//
// Checklist: P28.
func TestManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		f := NewFollower(interval,
			func(ctx context.Context, _ string) ([]netip.Addr, error) {
				defer now.Add(-1)
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				<-ctx.Done()
				return nil, ctx.Err()
			},
			func(string, *History) bool { return true })
		followed := 0
		for i := range 2 * maxNames {
			if f.Follow(fmt.Sprintf("made-up-%d.test", i)) {
				followed++
			}
		}
		if followed != maxNames {
			t.Errorf("%d names are followed, want %d", followed, maxNames)
		}
		time.Sleep(2 * interval)
		if n := most.Load(); n != maxLookups {
			t.Errorf("%d lookups at once, want %d", n, maxLookups)
		}
		f.Stop()
		synctest.Wait()
		if n := now.Load(); n > 0 {
			t.Errorf("%d lookups after Stop", n)
		}
		if f.Follow("h.test") {
			t.Error("a name is followed after Stop")
		}
	})
}
