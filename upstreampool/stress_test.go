package upstreampool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// Configurations come and go, clients give up, the queue is full, requests ask
// for an upgrade, while the upstream does all that it may. Every request ends
// soon, no POST is processed twice, and nothing is left over.
func TestEverythingAtOnce(t *testing.T) {
	var processed sync.Map // id of a POST -> *atomic.Int64
	process := func(id string) {
		n, _ := processed.LoadOrStore(id, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
	for _, tc := range []struct {
		name   string
		serve  func(t *testing.T) *rawServer
		change func(*Transport)
	}{
		{"HTTP/1", func(t *testing.T) *rawServer {
			return serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				for {
					req := fake.ReadRequest(r)
					if req == nil {
						return
					}
					id := req.Header.Get("Id")
					if rand.IntN(20) == 0 { // it does not process this one
						io.WriteString(c, "HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n")
						continue
					}
					if req.Method == "POST" {
						process(id)
					}
					if req.Header.Get("Upgrade") != "" && rand.IntN(2) == 0 {
						io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
						io.Copy(c, r)
						return
					}
					switch rand.IntN(20) {
					case 0:
						return
					case 1:
						rst(c)
						return
					case 2:
						fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
						return
					case 3:
						fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
						continue
					case 4:
						for range 50 {
							io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
						}
					case 5:
						fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n%x\r\n%s\r\n0\r\nT: %s\r\n\r\n", len(id), id, id)
						continue
					case 6:
						fake.Respond(c, id, "Connection: keep-alive", "Keep-Alive: timeout=0")
						continue
					}
					fake.Respond(c, id)
				}
			})
		}, func(*Transport) {}},
		{"HTTP/2", func(t *testing.T) *rawServer {
			return serveFrames(t, func(c *frameConn) {
				for leaving := false; ; {
					stream, method := c.request()
					if stream == 0 {
						return
					}
					if leaving {
						continue
					}
					id := c.id
					switch rand.IntN(20) {
					case 0:
						c.WriteGoAway(stream-2, http2.ErrCodeNo, nil)
						return
					case 1:
						c.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
						continue
					case 2:
						c.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(1 + rand.IntN(4))})
					}
					if method == "POST" {
						process(id)
					}
					switch rand.IntN(20) {
					case 0:
						return
					case 1:
						c.WriteGoAway(stream, http2.ErrCodeNo, nil)
						leaving = true
					case 2:
						c.WriteRSTStream(stream, http2.ErrCodeInternal)
						continue
					}
					c.respond(stream, id)
				}
			}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 4})
		}, func(tr *Transport) { tr.Versions = []string{"h2c"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tc.serve(t)
			before := runtime.NumGoroutine()
			var config atomic.Int64
			load := func() *Transport {
				tr := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
				tc.change(tr)
				tr.MaxConnsPerHost, tr.MaxPending, tr.MinIdle = 4, 8, 1
				tr.AcquireTimeout = caddy.Duration(time.Second)
				tr.MaxRequests = 1_000_000 + int(config.Add(1)/3) // some equal the one before
				ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
				defer cancel()
				if err := tr.Provision(ctx); err != nil {
					t.Fatal(err)
				}
				tr.core.users.last.Store(zap.NewNop())
				return tr
			}
			var current atomic.Pointer[Transport]
			current.Store(load())
			stop, last := time.Now().Add(needs.InLong(2*time.Second, 700*time.Millisecond)), time.Now().Add(30*time.Second)
			const enough = 100
			var wg sync.WaitGroup
			var id, answered, failed atomic.Int64
			var cores sync.Map
			for range 16 {
				wg.Go(func() {
					for time.Now().Before(stop) || answered.Load() < enough && time.Now().Before(last) {
						my := fmt.Sprintf("%s-%d", tc.name, id.Add(1))
						ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
						if rand.IntN(10) == 0 {
							time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, cancel)
						}
						method, body := "GET", io.Reader(nil)
						if rand.IntN(2) == 0 {
							method, body = "POST", strings.NewReader(my)
						}
						req := requestTo(t, ctx, method, "tcp", s.addr(), body)
						req.Header.Set("Id", my)
						if tc.name == "HTTP/1" && rand.IntN(10) == 0 {
							req.Header.Set("Connection", "Upgrade")
							req.Header.Set("Upgrade", "echo")
						}
						tr := current.Load()
						cores.Store(tr.core, tr)
						resp, err := tr.RoundTrip(req)
						if err != nil {
							if ctx.Err() == context.DeadlineExceeded {
								t.Errorf("%s hangs: %v; %+v", my, err, onlyPool(t, tr).snapshot())
							}
							failed.Add(1)
							cancel()
							continue
						}
						if resp.StatusCode == http.StatusOK {
							if b, err := io.ReadAll(resp.Body); err == nil && string(b) != my {
								t.Errorf("%s got the answer %q", my, b)
							}
						}
						resp.Body.Close()
						cancel()
						answered.Add(1)
					}
				})
			}
			for time.Now().Before(stop) {
				time.Sleep(10 * time.Millisecond)
				next := load()
				old := current.Swap(next)
				if err := old.Cleanup(); err != nil {
					t.Error(err)
				}
			}
			wg.Wait()
			_ = current.Load().Cleanup()
			t.Logf("%d answered, %d failed, %d configurations", answered.Load(), failed.Load(), config.Load())
			if answered.Load() < enough {
				t.Errorf("only %d answered", answered.Load())
			}
			processed.Range(func(id, n any) bool {
				if c := n.(*atomic.Int64).Load(); c > 1 {
					t.Errorf("POST %v was processed %d times", id, c)
				}
				return true
			})
			eventually(t, "nothing is left", func() bool {
				left := 0
				cores.Range(func(c, _ any) bool { left += len(c.(*core).all()); return true })
				return left == 0
			})
			cores.Range(func(c, _ any) bool {
				if n := c.(*core).group.Idle(); n != 0 {
					t.Errorf("%d idle connections are counted after all were closed", n)
				}
				return true
			})
			s.Close()
			eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+20 })
		})
	}
}
