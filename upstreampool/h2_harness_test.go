package upstreampool

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// A frameConn is an HTTP/2 connection as its server sees it, frame by frame.
type frameConn struct {
	*h2.Peer
	n  int64
	id string // the Id field of the last request
}

// serveFrames starts an h2c server that calls handle for each connection.
func serveFrames(t testing.TB, handle func(c *frameConn), settings ...http2.Setting) *rawServer {
	return serveRaw(t, func(n int64, c net.Conn, r *bufioReader) {
		if fc := newFrameConn(c, r, n, settings...); fc != nil {
			handle(fc)
		}
	})
}

// newFrameConn starts HTTP/2 on c, whose bytes come from r.
func newFrameConn(c net.Conn, r io.Reader, n int64, settings ...http2.Setting) *frameConn {
	peer, err := h2.Server(c, r, settings...)
	if err != nil {
		return nil
	}
	return &frameConn{Peer: peer, n: n}
}

// request returns the next request's stream and method, answering SETTINGS and
// PING on the way, or 0.
func (c *frameConn) request() (uint32, string) {
	for {
		f, err := c.Next()
		if err != nil {
			return 0, ""
		}
		if f, ok := f.(*http2.MetaHeadersFrame); ok {
			c.id = ""
			for _, h := range f.RegularFields() {
				if h.Name == "id" {
					c.id = h.Value
				}
			}
			return f.StreamID, f.PseudoValue("method")
		}
	}
}

// requests are the streams that requests open, numbered from 0, until the
// connection ends.
func (c *frameConn) requests() iter.Seq2[int, uint32] {
	return func(yield func(int, uint32) bool) {
		for i := 0; ; i++ {
			stream, _ := c.request()
			if stream == 0 || !yield(i, stream) {
				return
			}
		}
	}
}

func (c *frameConn) respond(stream uint32, body string) {
	c.Headers(stream, false, [2]string{":status", "200"})
	c.WriteData(stream, true, []byte(body))
}

// framed makes connections of tr, which must be in a bubble, end in handle.
func framed(tr *Transport, handle func(c *frameConn)) {
	scripted(tr, func(n int64, c net.Conn, r *bufioReader) {
		q := queuedConn{c, make(chan []byte, 100)}
		defer close(q.queue)
		go func() {
			for b := range q.queue {
				_, _ = c.Write(b)
			}
		}()
		if fc := newFrameConn(q, r, n); fc != nil {
			handle(fc)
		}
	})
}

// A queuedConn does not wait until the peer reads, as a pipe does: two HTTP/2
// peers that do would wait for each other.
type queuedConn struct {
	net.Conn
	queue chan []byte
}

func (c queuedConn) Write(p []byte) (int, error) {
	c.queue <- bytes.Clone(p)
	return len(p), nil
}

func h2c(tr *Transport) {
	known(tr)
	tr.Versions = []string{"h2c"}
}

// h2cAtMost is h2c with so many connections, for which requests wait.
func h2cAtMost(maxConns int) func(*Transport) {
	return func(tr *Transport) {
		h2c(tr)
		tr.MaxConnsPerHost = maxConns
		tr.AcquireTimeout = caddy.Duration(time.Minute)
	}
}

// hang sends a request that is not answered, until the test ends.
func hang(t *testing.T, tr *Transport, addr string) {
	ended := make(chan struct{})
	req := newRequest(t, "GET", addr, nil)
	go func() { send(tr, req); close(ended) }()
	t.Cleanup(func() { <-ended })
}

// tlsServer starts an HTTPS server that answers with the server name of the
// connection it was asked on, and counts connections.
func tlsServer(t testing.TB, protocols ...string) (*httptest.Server, *atomic.Int64) {
	return idlingTLSServer(t, 0, protocols...)
}

// idlingTLSServer is tlsServer with an idle timeout.
func idlingTLSServer(t testing.TB, idle time.Duration, protocols ...string) (*httptest.Server, *atomic.Int64) {
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s", r.Proto, r.TLS.ServerName)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Config.IdleTimeout = idle
	srv.TLS = &tls.Config{NextProtos: protocols}
	srv.EnableHTTP2 = len(protocols) > 0 && protocols[0] == "h2"
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, &conns
}

func insecure(tr *Transport) {
	known(tr)
	tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}
}
