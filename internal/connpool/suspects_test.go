package connpool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/socket"
)

// A resetting connection is a pipe whose end is a reset.
type resetting struct{ net.Conn }

func (c resetting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = syscall.ECONNRESET
	}
	return n, err
}

// An upstream that has started anew knows no connection, so after a reset all are
// suspect. But some reset connections because of a request. Who sends it again and again
// does not keep the pool empty.
func TestRequestsThatAreReset(t *testing.T) {
	inBubble(t, func(_ *Config, b *bench) {
		b.connect = func() (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				for r := bufio.NewReader(server); ; {
					req, err := http.ReadRequest(r)
					if err != nil || req.URL.Path == "/crash" {
						return
					}
					fmt.Fprint(server, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			}()
			return resetting{client}, nil
		}
	}, func(t *testing.T, b *bench) {
		busy := mustAcquire(t, b.Pool, anything) // or the pool would end with the last one
		defer busy.Unused()
		crash := func() (closed int) {
			t.Helper()
			time.Sleep(100 * time.Millisecond) // what is idle now is older than what is dialed next
			var leases []Lease
			for range 5 {
				leases = append(leases, mustAcquire(t, b.Pool, anything))
			}
			for _, l := range leases {
				if _, err := get(&l); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			before := b.seen.closed(CloseSuspect)
			l := mustAcquire(t, b.Pool, anything)
			req, _ := http.NewRequest("GET", "http://upstream.test/crash", nil)
			_, err := l.RoundTrip(req)
			if err == nil {
				t.Fatal("it was answered")
			}
			l.Fail(err, false)
			synctest.Wait()
			return b.seen.closed(CloseSuspect) - before
		}
		for i, want := range []int{4, 0, 0, 4} {
			if i == 3 {
				time.Sleep(resetsApart)
			}
			if got := crash(); got != want {
				t.Errorf("reset %d: %d idle connections were closed, want %d", i+1, got, want)
			}
		}
	})
}

// What ended a connection is taken to have ended those that are at least half as old.
// Younger ones stay.
func TestHalfAsOldAsADeadConnection(t *testing.T) {
	const dead = 40 * time.Second
	for _, tc := range []struct {
		other time.Duration
		stays bool
	}{{dead / 2, false}, {dead/2 - time.Millisecond, true}} {
		inBubble(t, func(_ *Config, b *bench) {
			b.serve = func(n int64, c net.Conn) {
				if n > 1 {
					answer(n, c)
				}
				r := bufio.NewReader(c)
				_, _ = http.ReadRequest(r)
				fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
				_, _ = http.ReadRequest(r) // and is dead
			}
		}, func(t *testing.T, b *bench) {
			openMany(t, b.Pool, 1)
			time.Sleep(dead - tc.other)
			openMany(t, b.Pool, 1)
			time.Sleep(tc.other)
			younger, older := mustAcquire(t, b.Pool, anything), mustAcquire(t, b.Pool, anything)
			younger.Unused()
			if got, err := get(&older); err == nil {
				t.Errorf("answered %q after %v", got, older.Idle)
			}
			synctest.Wait()
			if stays := b.Snapshot().Connections["idle"] == 1; stays != tc.stays {
				t.Errorf("one was dead after %v, another one idle for %v: it stays: %v, want %v", older.Idle, tc.other, stays, tc.stays)
			}
		})
	}
}

// What was heard of a connection says nothing about the request that takes it next.
func TestWhatWasHeardIsOfOneRequest(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *bench) { cfg.UnackedTimeout = 20 * time.Second }, func(t *testing.T, b *bench) {
		l := mustAcquire(t, b.Pool, anything)
		time.Sleep(25 * time.Second)
		old := []listened{{l.c, socket.Silence{For: 25 * time.Second, Repeated: true}}}
		if _, err := get(&l); err != nil { // it arrives just now
			t.Fatal(err)
		}
		synctest.Wait()
		next := mustAcquire(t, b.Pool, Need{}) // which cannot be repeated
		b.lock()
		b.judgeLocked(old, time.Now())
		b.unlock()
		synctest.Wait()
		if _, err := get(&next); err != nil || next.c != l.c {
			t.Errorf("the next request: %v", err)
		}
	})
}

// After a pause of the machine, upstreams first get time to answer.
func TestPauseIsNoSilence(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bench) {
		l := mustAcquire(t, b.Pool, anything)
		defer l.Unused()
		for _, tc := range []struct {
			late   time.Duration
			looked bool
		}{{0, true}, {100 * time.Millisecond, true}, {30 * time.Second, false}, {0, true}} {
			time.Sleep(listenEvery)
			b.lock()
			b.listenAt = time.Now().Add(-tc.late)
			b.unlock()
			if looked := len(b.Pool.listen()) == 1; looked != tc.looked {
				t.Errorf("%v late: looked = %v, want %v", tc.late, looked, tc.looked)
			}
			b.lock()
			if b.listenAt.IsZero() {
				t.Errorf("%v late: it does not look again", tc.late)
			}
			b.unlock()
		}
	})
}
