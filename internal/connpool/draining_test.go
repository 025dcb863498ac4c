package connpool

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// In a full pool, connections that drain leave their places to as many others, since
// their streams may never end. Then a request waits. A connection for one request keeps
// its place until it ends.
func TestDrainingLeavesAsManyPlaces(t *testing.T) {
	for _, tc := range []struct {
		name     string
		goesAway bool
		change   func(*Config)
		times    int // as many connections as max_conns_per_host
	}{
		{"GOAWAY", true, func(*Config) {}, 2},
		{"max_lifetime", false, func(cfg *Config) { cfg.MaxLifetime = 10 * time.Second }, 2},
		{"max_requests above 1", false, func(cfg *Config) { cfg.MaxRequests = 2 }, 2},
		{"max_requests 1", false, func(cfg *Config) { cfg.MaxRequests = 1 }, 1},
	} {
		for _, most := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, max_conns_per_host %d", tc.name, most), func(t *testing.T) {
				inBubble(t, func(cfg *Config, b *bench) {
					tc.change(cfg)
					cfg.MaxConns, b.h2 = most, true
					b.serve = frames(func(_ int64, f *peer) {
						for stream := nextRequest(f); stream != 0; stream = nextRequest(f) {
							if tc.goesAway {
								f.goAway(stream)
							}
						}
					})
				}, func(t *testing.T, b *bench) {
					ctx, endStreams := context.WithCancel(t.Context())
					defer endStreams()
					var err error
					for err == nil && b.dials.Load() < 10 {
						var l Lease
						if l, err = acquire(t.Context(), b.Pool, anything); err == nil {
							go func() {
								req, _ := http.NewRequestWithContext(ctx, "GET", "http://upstream.test/", nil)
								_, err := l.RoundTrip(req)
								l.Fail(err, true)
							}()
						}
						time.Sleep(20 * time.Second)
					}
					if n := int(b.dials.Load()); err != ErrAcquireTimeout || n != tc.times*most {
						t.Errorf("%d connections, then %v; want %d, then a request that waits", n, err, tc.times*most)
					}
					next := make(chan error)
					go func() {
						l, err := acquire(t.Context(), b.Pool, anything)
						if err == nil {
							l.Unused()
						}
						next <- err
					}()
					synctest.Wait()
					endStreams()
					if err := <-next; err != nil {
						t.Errorf("one that waits when the streams end: %v", err)
					}
				})
			})
		}
	}
}
