package upstreampool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A name moves: within four intervals no request goes to the old address, none
// fails, and a response that is under way ends by itself.
//
// Checklist: P31.
func TestMovedName(t *testing.T) {
	const interval = defaultFollowDNS
	for _, tc := range []struct {
		name     string
		change   func(*Transport)
		method   string
		every    time.Duration
		old, new string
	}{
		{"HTTP/1", known, "GET", 100 * time.Millisecond, oldAddr, newAddr},
		{"HTTP/1, POST", known, "POST", 100 * time.Millisecond, oldAddr, newAddr},
		{"HTTP/1, now and then", known, "POST", 10 * time.Second, oldAddr, newAddr},
		{"HTTP/2", h2c, "GET", 100 * time.Millisecond, oldAddr, newAddr},
		{"HTTP/2, now and then", h2c, "POST", 10 * time.Second, oldAddr, newAddr},
		{"HTTP/2, a full pool", h2cAtMost(1), "GET", 100 * time.Millisecond, oldAddr, newAddr},
		{"a full pool", func(tr *Transport) { known(tr); tr.MaxConnsPerHost = 2 }, "GET", 100 * time.Millisecond, oldAddr, newAddr},
		{"connections kept warm", func(tr *Transport) { known(tr); tr.MinIdle = 3 }, "GET", 100 * time.Millisecond, oldAddr, newAddr},
		{"IPv6", known, "GET", 100 * time.Millisecond, "2001:db8::1", "2001:db8::2"},
		{"IPv4 in IPv6", known, "GET", 100 * time.Millisecond, "::ffff:192.0.2.1", newAddr},
	} {
		t.Run(tc.name, func(t *testing.T) {
			following(t, tc.change, func(t *testing.T, tr *Transport, z *zone) {
				z.names(tc.old)
				slow := get(t)
				slow.Header.Set("Slow", "yes")
				streamed := make(chan string, 1)
				go func() {
					_, body, err := send(tr, slow)
					streamed <- fmt.Sprint(body, err)
				}()
				ask := func() string {
					defer time.Sleep(tc.every)
					if tc.method == "POST" {
						return mustSend(t, tr, post(t))
					}
					return mustSend(t, tr, get(t))
				}
				for began := time.Now(); time.Since(began) < 10*interval+3*time.Second; ask() {
				}
				z.names(tc.new)
				moved, last := time.Now(), time.Duration(0)
				for time.Since(moved) < 10*interval {
					if at := time.Since(moved); ask() == tc.old {
						last = at
					}
				}
				if last > 4*interval || last == 0 {
					t.Errorf("the last request went to the old address %v after the move, want at most four intervals of %v", last, interval)
				}
				if got := <-streamed; got != tc.old+tc.old+"<nil>" {
					t.Errorf("a response that was under way did not end by itself: %q", got)
				}
				synctest.Wait()
				if n := closesFor(tr, "dns"); n == 0 {
					t.Error("no connection is closed for this reason")
				}
			})
		})
	}
}

// Requests fail by nothing that happens to DNS: where nobody answers at the new
// address, the old connections are used until somebody does.
//
// Checklist: P31.
func TestNobodyAtTheNewAddress(t *testing.T) {
	const interval = defaultFollowDNS
	for _, tc := range []struct {
		name string
		host func(c net.Conn) (bool, error)
		wait time.Duration // the longest that a request may take
	}{
		{"refused", func(net.Conn) (bool, error) { return false, errors.New("connection refused") }, 0},
		{"it hangs", func(net.Conn) (bool, error) { time.Sleep(3 * time.Second); return false, errors.New("timeout") }, time.Second},
		{"accepted and closed", func(c net.Conn) (bool, error) { c.Close(); return true, nil }, 0},
		{"accepted, read and closed", func(c net.Conn) (bool, error) {
			go func() { _, _ = c.Read(make([]byte, 1)); c.Close() }()
			return true, nil
		}, 0},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", tc.name, h2), func(t *testing.T) {
				change := known
				if h2 {
					change = h2c
				}
				following(t, change, func(t *testing.T, tr *Transport, z *zone) {
					mustSend(t, tr, get(t))
					z.names(newAddr)
					z.hosts(func(addr string, c net.Conn) (bool, error) {
						if addr == oldAddr {
							return false, nil
						}
						return tc.host(c)
					})
					ask := func() string {
						began := time.Now()
						got := mustSend(t, tr, get(t))
						if took := time.Since(began); took > tc.wait {
							t.Errorf("a request took %v", took)
						}
						time.Sleep(200 * time.Millisecond)
						return got
					}
					for began := time.Now(); time.Since(began) < 20*interval; {
						if got := ask(); got != oldAddr {
							t.Fatalf("answered by %q", got)
						}
					}
					if n := closesFor(tr, "dns"); n > 0 {
						t.Errorf("%d connections were closed, and there are no others", n)
					}
					z.hosts(nil)
					for began := time.Now(); ask() != newAddr; {
						if time.Since(began) > 2*interval {
							t.Fatal("no request goes to the new address, which answers now")
						}
					}
				})
			})
		}
	}
}

// A resolver that fails, or is slow, or says nothing, changes nothing.
func TestResolverFails(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer func() ([]netip.Addr, error)
	}{
		{"no such host", func() ([]netip.Addr, error) { return nil, errors.New("no such host") }},
		{"it takes a minute", func() ([]netip.Addr, error) { time.Sleep(time.Minute); return nil, context.DeadlineExceeded }},
		{"an empty answer", func() ([]netip.Addr, error) { return nil, nil }},
		{"IPv6 alone", func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("2001:db8::1")}, nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			following(t, known, func(t *testing.T, tr *Transport, z *zone) {
				mustSend(t, tr, get(t))
				z.says(tc.answer)
				for range 600 {
					if got := mustSend(t, tr, get(t)); got != oldAddr {
						t.Fatalf("answered by %q", got)
					}
					time.Sleep(time.Second)
				}
				if n := z.dials.Load(); n != 1 {
					t.Errorf("%d connections were opened, want 1", n)
				}
			})
		})
	}
}

// A resolver that names some of sixteen addresses at a time costs at most one in
// twenty of the requests that find a connection.
func TestRotatingResolver(t *testing.T) {
	var all []netip.Addr
	for i := range 16 {
		all = append(all, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}))
	}
	for _, size := range []int{1, 2, 4, 8} {
		for _, random := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d at a time, random %v", size, random), func(t *testing.T) {
				following(t, known, func(t *testing.T, tr *Transport, z *zone) {
					r, turn := rand.New(rand.NewPCG(1, 1)), 0
					z.says(func() ([]netip.Addr, error) {
						z.mu.Lock()
						defer z.mu.Unlock()
						turn += size
						answer := make([]netip.Addr, size)
						for i := range answer {
							answer[i] = all[(turn+i)%len(all)]
						}
						if random {
							for i, n := range r.Perm(len(all))[:size] {
								answer[i] = all[n]
							}
						}
						return answer, nil
					})
					for range 2 * 3600 { // as rare as one a second
						mustSend(t, tr, get(t))
						time.Sleep(time.Second)
					}
					if n := z.dials.Load(); n > 2*3600/20 {
						t.Errorf("%d of %d requests needed a new connection", n, 2*3600)
					}
				})
			})
		}
	}
}

// A name is looked up for as long as there are connections to it, and not where
// that is off, or nobody's but the client's.
func TestWhatIsFollowed(t *testing.T) {
	ask := func(t *testing.T, tr *Transport, addr string) {
		for range 100 {
			mustSend(t, tr, newRequest(t, "GET", addr, nil))
			time.Sleep(time.Second)
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*Transport)
		addr   string
		want   bool
	}{
		{"a name", known, pipeAddr, true},
		{"off", func(tr *Transport) { known(tr); tr.FollowDNS = -1 }, pipeAddr, false},
		{"an address", known, "192.0.2.1:80", false},
		{"an IPv6 address", known, "[2001:db8::1]:80", false},
		{"a name that a client chose", known, "chosen.test:80", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			following(t, tc.change, func(t *testing.T, tr *Transport, z *zone) {
				tr.core.users.join(&user{logger: tr.core.log(), addresses: []address{{"tcp", "192.0.2.1:80"}, {"tcp", "[2001:db8::1]:80"}}})
				ask(t, tr, tc.addr)
				if n := z.lookups.Load(); (n > 0) != tc.want {
					t.Errorf("%d lookups", n)
				}
				time.Sleep(10 * time.Minute) // nobody asks any more
				n := z.lookups.Load()
				time.Sleep(10 * time.Minute)
				if more := z.lookups.Load() - n; more > 0 {
					t.Errorf("%d lookups of a name that nobody uses", more)
				}
				ask(t, tr, tc.addr)
				if more := z.lookups.Load() - n; (more > 0) != tc.want {
					t.Errorf("%d lookups when it is in use again", more)
				}
				_ = tr.Cleanup()
				n = z.lookups.Load()
				time.Sleep(time.Hour)
				if more := z.lookups.Load() - n; more > 0 {
					t.Errorf("%d lookups when its configuration is gone", more)
				}
			})
		})
	}
}

func TestHostOf(t *testing.T) {
	for _, tc := range []struct{ network, addr, want string }{
		{"tcp", "h.test:80", "h.test"},
		{"tcp4", "h.test:80", "h.test"},
		{"tcp", "192.0.2.1:80", ""},
		{"tcp", "[fe80::1%eth0]:80", ""},
		{"unix", "/run/app.sock", ""},
		{"unix", "h.test:80", ""},
	} {
		tg := target{key: key{network: tc.network, addr: tc.addr}}
		if got := hostOf(&tg); got != tc.want {
			t.Errorf("hostOf(%s/%s) = %q, want %q", tc.network, tc.addr, got, tc.want)
		}
	}
}

// A request that cannot be repeated leaves it to others to try a new address, for a
// while.
func TestWhoTriesANewAddress(t *testing.T) {
	following(t, known, func(t *testing.T, tr *Transport, z *zone) {
		mustSend(t, tr, get(t))
		z.names(newAddr)
		for onlyPool(t, tr).doubt.Load() == nil {
			time.Sleep(time.Second)
			if tr.core.all() == nil || z.lookups.Load() > 10 {
				t.Fatal("no doubt")
			}
		}
		if got := mustSend(t, tr, post(t)); got != oldAddr {
			t.Errorf("a POST went to %s first", got)
		}
		if got := mustSend(t, tr, get(t)); got != newAddr {
			t.Errorf("a GET went to %s", got)
		}
		if got := mustSend(t, tr, post(t)); got != newAddr {
			t.Errorf("a POST went to %s afterwards", got)
		}
	})
}

// The log says which addresses are left, and once in a row that those which DNS
// names do not answer.
func TestMovesAreLogged(t *testing.T) {
	for name, host := range map[string]func(string, net.Conn) (bool, error){
		"refused":  func(string, net.Conn) (bool, error) { return false, errors.New("connection refused") },
		"accepted": func(_ string, c net.Conn) (bool, error) { c.Close(); return true, nil },
	} {
		t.Run(name, func(t *testing.T) {
			following(t, known, func(t *testing.T, tr *Transport, z *zone) {
				logs, seen := observer.New(zap.InfoLevel)
				tr.core.users.last.Store(zap.New(logs))
				ask := func(d time.Duration) {
					for began := time.Now(); time.Since(began) < d; time.Sleep(time.Second) {
						mustSend(t, tr, get(t))
					}
				}
				ask(time.Minute)
				z.names(newAddr)
				z.hosts(host)
				ask(10 * time.Minute)
				z.hosts(nil)
				ask(time.Minute)
				var got []string
				for _, e := range seen.All() {
					got = append(got, fmt.Sprint(e.Level, ": ", e.Message, " ", e.ContextMap()["upstream"], e.ContextMap()["addresses"]))
				}
				want := []string{
					"warn: DNS no longer names addresses of upstream, but those that it names do not answer upstream.test:80[192.0.2.1]",
					"info: DNS no longer names addresses of upstream, their connections get no more requests upstream.test:80[192.0.2.1]",
				}
				if !slices.Equal(got, want) {
					t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		})
	}
}
