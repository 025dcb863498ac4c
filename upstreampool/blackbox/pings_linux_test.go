package blackbox

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// A server like that of grpc-go, with its default policy, ends connections that send
// PINGs more often than every five minutes. A stream that is quiet for long sees none.
func TestQuietStreamSeesNoPing(t *testing.T) {
	t.Parallel()
	const quiet = 2 * soon
	pings := make(chan struct{}, 100)
	l := listen(t, nil)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		peer, err := h2.Server(c, r)
		if err != nil {
			return
		}
		for {
			f, err := peer.Next()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.PingFrame:
				pings <- struct{}{}
				_ = peer.WriteGoAway(1, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
			case *http2.MetaHeadersFrame:
				_ = peer.Headers(f.StreamID, false, [2]string{":status", "200"})
				time.AfterFunc(quiet, func() { _ = peer.WriteData(f.StreamID, true, []byte("x")) })
			}
		}
	})
	r := send(aboutSilence(t, overH2C), newRequest(t, t.Context(), "POST", addr(l), nil))
	if !r.ok() || r.body != "x" || len(pings) > 0 {
		t.Errorf("%v, %d PINGs", r, len(pings))
	}
}

// ping_interval and ping_timeout close a connection that answers no PING, though its
// kernel acknowledges all. That teaches nothing about idle connections.
//
// Checklist: P29.
func TestPings(t *testing.T) {
	t.Parallel()
	pinging := func(tr *upstreampool.Transport) {
		overH2C(tr)
		tr.UpstreamKeepAlive = 0
		tr.PingInterval, tr.PingTimeout = caddy.Duration(300*time.Millisecond), caddy.Duration(400*time.Millisecond)
	}
	for _, answers := range []bool{true, false} {
		for _, idle := range []bool{true, false} {
			t.Run(fmt.Sprintf("answers %v, idle %v", answers, idle), func(t *testing.T) {
				t.Parallel()
				var pings atomic.Int64
				l := listen(t, nil)
				l.ServeRaw(func(n int64, c net.Conn, r *bufio.Reader) {
					peer, err := h2.Server(c, r)
					if err != nil {
						return
					}
					for {
						f, err := peer.ReadFrame()
						if err != nil {
							return
						}
						switch f := f.(type) {
						case *http2.PingFrame:
							if pings.Add(1); answers || n > 1 {
								_ = peer.WritePing(true, f.Data)
							}
						case *http2.MetaHeadersFrame:
							if f.StreamID > 1 && n == 1 && !answers {
								continue
							}
							_ = peer.Headers(f.StreamID, false, [2]string{":status", "200"})
							_ = peer.WriteData(f.StreamID, true, []byte("x"))
						}
					}
				})
				tr := aboutSilence(t, pinging)
				request := func(method string) *http.Request { return newRequest(t, t.Context(), method, addr(l), nil) }
				mustSend(t, tr, request("GET"), 0)
				if idle {
					poll.Until(t, "PINGs", func() bool { return pings.Load() >= 3 || l.Open.Load() == 0 })
				}
				mustSend(t, tr, request("GET"), 2*time.Second)
				if got := l.Accepted.Load() == 1; got != answers {
					t.Errorf("%d connections and %d PINGs", l.Accepted.Load(), pings.Load())
				}
			})
		}
	}
}
