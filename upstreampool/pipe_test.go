package upstreampool

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// A pipeServer is an upstream inside a synctest bubble, on which time flies.
type pipeServer struct {
	idle      atomic.Int64 // after which it closes an idle connection; 0: never
	header    atomic.Value // string: a field line of every response
	conns     atomic.Int64
	served    atomic.Int64
	latency   atomic.Int64 // between a request and its response
	refuse    atomic.Bool
	drop      atomic.Bool  // the next request gets no response, but a close
	asked     atomic.Bool  // the last request had Connection: keep-alive
	delay     atomic.Int64 // of a connection
	open      atomic.Int64
	mostOpen  atomic.Int64
	closeConn chan struct{} // closed: a restart
}

func (s *pipeServer) setIdle(d time.Duration)    { s.idle.Store(int64(d)) }
func (s *pipeServer) setLatency(d time.Duration) { s.latency.Store(int64(d)) }

func (s *pipeServer) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	if d := time.Duration(s.delay.Load()); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, reverseproxy.NewDialError(ctx.Err())
		}
	}
	if s.refuse.Load() {
		return nil, reverseproxy.NewDialError(errors.New("refused"))
	}
	client, server := net.Pipe()
	n := s.conns.Add(1)
	if o := s.open.Add(1); o > s.mostOpen.Load() {
		s.mostOpen.Store(o)
	}
	go func() {
		defer server.Close()
		s.serve(n, server)
	}()
	return &pipeClient{Conn: client, s: s}, nil
}

// A pipeClient is open until the client closes it, or has seen that the server
// did.
type pipeClient struct {
	net.Conn
	s    *pipeServer
	once sync.Once
}

func (c *pipeClient) Close() error {
	c.once.Do(func() { c.s.open.Add(-1) })
	return c.Conn.Close()
}

func (s *pipeServer) serve(n int64, c net.Conn) {
	r := bufio.NewReader(c)
	for {
		var timeout <-chan time.Time
		if d := time.Duration(s.idle.Load()); d > 0 {
			timeout = time.After(d)
		}
		got := make(chan *http.Request, 1)
		go func() { got <- fake.ReadRequest(r) }()
		var req *http.Request
		select {
		case req = <-got:
		case <-timeout:
			return
		case <-s.closeConn:
			return
		}
		if req == nil {
			return
		}
		s.served.Add(1)
		if s.drop.CompareAndSwap(true, false) {
			return
		}
		s.asked.Store(req.Header.Get("Connection") == "keep-alive")
		if d := time.Duration(s.latency.Load()); d > 0 {
			time.Sleep(d)
		}
		h, _ := s.header.Load().(string)
		if h != "" {
			fake.Respond(c, strconv.FormatInt(n, 10), h)
		} else {
			fake.Respond(c, strconv.FormatInt(n, 10))
		}
	}
}

// bubble runs f in a synctest bubble with a transport whose upstream is s.
func bubble(t *testing.T, change func(*Transport), f func(t *testing.T, tr *Transport, s *pipeServer)) {
	synctest.Test(t, func(t *testing.T) {
		s := &pipeServer{closeConn: make(chan struct{})}
		tr := newTransport(t, change)
		tr.core.h2Transport.DialContext = tr.core.dialer(s.dial)
		f(t, tr, s)
		_ = tr.Cleanup() // closes what is idle, or the bubble would not end
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// scripted makes connections of tr, which must be in a bubble, end in serve.
func scripted(tr *Transport, serve func(n int64, c net.Conn, r *bufio.Reader)) {
	var conns atomic.Int64
	tr.core.h2Transport.DialContext = tr.core.dialer(func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		n := conns.Add(1)
		go func() {
			defer server.Close()
			serve(n, server, bufio.NewReader(server))
		}()
		return client, nil
	})
}

const pipeAddr = "upstream.test:80"

func get(t testing.TB) *http.Request { return newRequest(t, "GET", pipeAddr, nil) }

func post(t testing.TB) *http.Request {
	return newRequest(t, "POST", pipeAddr, strings.NewReader("x=1"))
}
