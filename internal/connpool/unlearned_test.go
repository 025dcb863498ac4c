package connpool

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// Until its first request, a connection ends by another timeout than later on. Those that
// are kept warm and carry none teach nothing when the upstream closes them.
func TestUnusedConnectionsTeachNothing(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.Idle.KeepAlive, cfg.MinIdle = 0, 3
		b.serve = func(_ int64, c net.Conn) {
			_ = c.SetReadDeadline(time.Now().Add(2 * time.Second)) // as for a first request
			r := bufio.NewReader(c)
			for {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_ = c.SetReadDeadline(time.Time{})
				fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
			}
		}
	}, func(t *testing.T, b *bench) {
		mustGet(t, b.Pool)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := b.seen.closed(CloseUpstream); n < 5 {
			t.Fatalf("the upstream closed %d connections that were never used", n)
		}
		if n, l := b.memory.H1.Observed(), b.memory.H1.Limit(time.Now(), idletime.Optional{}); n != 0 || l.Bound != idletime.BoundKeepAlive {
			t.Errorf("%d closes were observed: %v", n, l)
		}
	})
}

// A process, or a machine, stands still for a while. What it finds closed when it goes on
// may have been closed at any time, whether it sees that before its timer runs or
// afterwards.
func TestClosesDuringASuspensionTeachNothing(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name     string
		from, to time.Duration // when it stands still; zero: never
		closes   time.Duration // when it sees the end
		observed int
	}{
		{"an idle connection, and it runs", 0, 0, 3 * s, 1},
		{"an idle connection", 1 * s, 60 * s, 60*s - ms, 0},
		{"the sensor, and it runs", 0, 0, 60 * s, 1},
		{"the sensor", 10 * s, 60 * s, 60*s - ms, 0},
		{"the sensor, after the timer has run", 10 * s, 60 * s, 60*s + ms, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(cfg *Config, b *bench) {
				cfg.Idle.KeepAlive = 0
				b.serve = func(_ int64, c net.Conn) {
					_, _ = http.ReadRequest(bufio.NewReader(c))
					fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
					time.Sleep(tc.closes)
				}
			}, func(t *testing.T, b *bench) {
				mustGet(t, b.Pool)
				if tc.to > 0 {
					time.Sleep(tc.from)
					b.mu.Lock()
					b.timer.Stop()
					b.mu.Unlock()
					time.Sleep(tc.to - tc.from)
					b.tick()
				}
				time.Sleep(61 * s)
				synctest.Wait()
				if n := b.memory.H1.Observed(); n != tc.observed {
					t.Errorf("%d closes were observed, want %d", n, tc.observed)
				}
			})
		})
	}
}
