package upstreampool

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// Clients can choose what makes a pool, so a request that acquires no connection leaves
// no pool behind.
//
// Checklist: P28.
func TestNoPoolWithoutConnections(t *testing.T) {
	post := func(addr string, body io.Reader) *http.Request {
		req := newRequest(t, "POST", addr, io.NopCloser(body))
		req.ContentLength = -1
		return req
	}
	for name, fails := range map[string]func(addr string) *http.Request{
		"the client is gone already": func(addr string) *http.Request {
			gone, cancel := context.WithCancel(t.Context())
			cancel()
			return requestTo(t, gone, "GET", "tcp", addr, nil)
		},
		"the body is too long for HTTP/1.0": func(addr string) *http.Request {
			return post(addr, strings.NewReader(strings.Repeat("a", replay.MaxKept+1)))
		},
		"the body cannot be read": func(addr string) *http.Request {
			return post(addr, errReader{net.ErrClosed})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				fake.ReadRequest(r)
				io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
			})
			tr := newTransport(t, nil)
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)) // it knows HTTP/1.0 only
			noPools := func() bool { return len(tr.core.all()) == 0 }
			poll.Until(t, "the pool goes with its connection", noPools)
			if _, _, err := send(tr, fails(s.addr())); err == nil || s.conns.Load() != 1 {
				t.Fatalf("error %v, %d connections; want a failure without another one", err, s.conns.Load())
			}
			poll.Until(t, "no pool is left", noPools)
		})
	}
}
