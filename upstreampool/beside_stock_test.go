package upstreampool

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// besideStock puts the same load on our transport and on transport http, both with their
// defaults, each in a bubble with an upstream of its own. The load returns how many
// connections it took.
func besideStock(t *testing.T, serve func(n int64, c net.Conn, r *bufio.Reader),
	load func(t *testing.T, tr http.RoundTripper, opened *atomic.Int64) int64) (ours, theirs int64) {
	t.Helper()
	upstream := func() (opened *atomic.Int64, dial func(context.Context, string, string) (net.Conn, error)) {
		opened = new(atomic.Int64)
		return opened, func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			n := opened.Add(1)
			go func() {
				defer server.Close()
				serve(n, server, bufio.NewReader(server))
			}()
			return client, nil
		}
	}
	synctest.Test(t, func(t *testing.T) {
		opened, dial := upstream()
		tr := newTransport(t, nil)
		tr.core.h2Transport.DialContext = tr.core.dialer(dial)
		ours = load(t, tr, opened)
		_ = tr.Cleanup()
		time.Sleep(time.Minute)
	})
	synctest.Test(t, func(t *testing.T) {
		opened, dial := upstream()
		tr := new(reverseproxy.HTTPTransport)
		provisionStock(t, tr)
		tr.Transport.DialContext = dial
		theirs = load(t, tr, opened)
		tr.Transport.CloseIdleConnections()
	})
	return ours, theirs
}

// Where requests come every 10 s, one or a burst of 50, they take no more connections than
// those of transport http, once it is known when the upstream closes idle ones.
func TestSparseRequestsReuseAsStockDoes(t *testing.T) {
	const pause, latency, counted = 10 * time.Second, 50 * time.Millisecond, 10 * time.Minute
	for _, tc := range []struct {
		name   string
		closes time.Duration // idle connections; zero: never
		header []string
		known  time.Duration // after which it is
	}{
		{"announced as 60 s", time.Minute, []string{"Connection: keep-alive", "Keep-Alive: timeout=60"}, 0},
		{"learned as 60 s", time.Minute, nil, 3 * time.Minute},
		{"learned that there is none", 0, nil, 3 * time.Minute},
	} {
		serve := func(_ int64, c net.Conn, r *bufio.Reader) {
			for {
				if tc.closes > 0 {
					_ = c.SetReadDeadline(time.Now().Add(tc.closes))
				}
				if fake.ReadRequest(r) == nil {
					return
				}
				time.Sleep(latency)
				fake.Respond(c, "x", tc.header...)
			}
		}
		for _, burst := range []int{1, 50} {
			t.Run(fmt.Sprintf("%s, %d at a time", tc.name, burst), func(t *testing.T) {
				ours, theirs := besideStock(t, serve, func(t *testing.T, tr http.RoundTripper, opened *atomic.Int64) int64 {
					before, sent := int64(0), 0
					for start := time.Now(); time.Since(start) < tc.known+counted; time.Sleep(pause - latency) {
						if time.Since(start) <= tc.known {
							before = opened.Load()
						}
						var answered sync.WaitGroup
						for range burst {
							request := []func(testing.TB) *http.Request{get, post}[sent%2](t)
							answered.Go(func() { mustSend(t, tr, request) })
							sent++
						}
						answered.Wait()
					}
					return opened.Load() - before
				})
				t.Logf("%d connections, transport http %d", ours, theirs)
				if ours > theirs {
					t.Errorf("%d connections, want at most those of transport http, %d", ours, theirs)
				}
			})
		}
	}
}

// Upstreams that close connections by their age, at random, or at restarts, have no idle
// timeout. What they do is not taken for one, and reuse does not suffer.
func TestClosesThatAreNoIdleTimeout(t *testing.T) {
	const requests = 1300
	every := func(d time.Duration) func(*rand.Rand) time.Duration {
		return func(r *rand.Rand) time.Duration { return d + time.Duration(r.Int64N(int64(5*time.Millisecond))) }
	}
	steady := every(400 * time.Millisecond)
	uneven := func(r *rand.Rand) time.Duration {
		return time.Duration(float64(100*time.Millisecond) * math.Pow(16, r.Float64())) // to 1.6 s
	}
	sparse := func(r *rand.Rand) time.Duration { return 5 * uneven(r) / 2 } // 250 ms to 4 s
	type when = func(r *rand.Rand, opened, started time.Time) time.Time
	byAge := func(d time.Duration) when {
		return func(_ *rand.Rand, opened, _ time.Time) time.Time { return opened.Add(d) }
	}
	atRandom := func(mean time.Duration) when {
		return func(r *rand.Rand, opened, _ time.Time) time.Time {
			return opened.Add(time.Duration(r.ExpFloat64() * float64(mean)))
		}
	}
	for _, test := range []struct {
		name  string
		pause func(*rand.Rand) time.Duration // of a client, between requests
		close when                           // a server that began at started closes a connection
	}{
		{"by age", steady, byAge(2 * time.Second)},
		{"by age, a request a second", every(time.Second), byAge(30 * time.Second)},
		{"by age, a request every 5 s", every(5 * time.Second), byAge(time.Minute)},
		{"by age, uneven load", uneven, byAge(5 * time.Second)},
		{"by age, sparse load", sparse, byAge(20 * time.Second)},
		{"at random", steady, atRandom(2 * time.Second)},
		{"at random, a request every 5 s", every(5 * time.Second), atRandom(time.Minute)},
		{"at random, uneven load", uneven, atRandom(2 * time.Second)},
		{"at random, sparse load", sparse, atRandom(20 * time.Second)},
		{"restarts", steady, func(_ *rand.Rand, opened, started time.Time) time.Time {
			restart := started
			for r := rand.New(rand.NewPCG(3, 3)); !restart.After(opened); {
				restart = restart.Add(time.Duration(r.Int64N(int64(4 * time.Second))))
			}
			return restart
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var started time.Time
			ours, theirs := besideStock(t, func(n int64, c net.Conn, r *bufio.Reader) {
				_ = c.SetReadDeadline(test.close(rand.New(rand.NewPCG(1, uint64(n))), time.Now(), started))
				for fake.ReadRequest(r) != nil {
					fake.Respond(c, "x")
				}
			}, func(t *testing.T, tr http.RoundTripper, opened *atomic.Int64) int64 {
				started = time.Now()
				r := rand.New(rand.NewPCG(2, 2))
				for range requests {
					mustSend(t, tr, get(t))
					time.Sleep(test.pause(r))
				}
				return opened.Load()
			})
			t.Logf("%d connections, transport http %d", ours, theirs)
			if ours > theirs*3/2 {
				t.Errorf("%d connections, want at most 1.5 times those of transport http, %d", ours, theirs)
			}
		})
	}
}
