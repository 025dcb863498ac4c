package upstreampool

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/resolve"
)

const (
	oldAddr = "192.0.2.1"
	newAddr = "192.0.2.2"
)

// A zone is DNS and the hosts it names, inside a synctest bubble. Each host answers
// with its address.
type zone struct {
	lookups atomic.Int64
	dials   atomic.Int64

	mu     sync.Mutex
	answer func() ([]netip.Addr, error)
	// host, if set, says what becomes of connections to an address: it fails, or
	// has taken the connection, or leaves it to be served.
	host func(addr string, c net.Conn) (taken bool, err error)
}

// names has DNS name these addresses from now on.
func (z *zone) names(addrs ...string) {
	var answer []netip.Addr
	for _, a := range addrs {
		answer = append(answer, netip.MustParseAddr(a))
	}
	z.says(func() ([]netip.Addr, error) { return answer, nil })
}

func (z *zone) says(answer func() ([]netip.Addr, error)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.answer = answer
}

// hosts says what becomes of connections; nil: they are served.
func (z *zone) hosts(host func(addr string, c net.Conn) (bool, error)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.host = host
}

func (z *zone) lookup() ([]netip.Addr, error) {
	z.mu.Lock()
	answer := z.answer
	z.mu.Unlock()
	return answer()
}

// A located connection goes to an address.
type located struct {
	net.Conn
	addr netip.Addr
}

func (c located) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.addr, 80))
}

func (z *zone) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	answer, err := z.lookup()
	if err != nil || len(answer) == 0 {
		return nil, reverseproxy.NewDialError(fmt.Errorf("lookup: %w", err))
	}
	a := answer[0]
	client, server := net.Pipe()
	z.mu.Lock()
	host := z.host
	z.mu.Unlock()
	taken := false
	if host != nil {
		if taken, err = host(a.String(), server); err != nil {
			return nil, reverseproxy.NewDialError(err)
		}
	}
	z.dials.Add(1)
	if !taken {
		go z.serve(a.String(), server)
	}
	return located{client, a}, nil
}

// serve answers each request with the address; to GET /slow, after an hour.
func (z *zone) serve(addr string, c net.Conn) {
	defer c.Close()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, addr)
		if r.Header.Get("Slow") != "" {
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
			_, _ = io.WriteString(w, addr)
		}
	})
	l := &oneConn{conn: c, done: make(chan struct{})}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(l.done)
		}
	}
	_ = srv.Serve(l)
}

// oneConn is a listener for one connection.
type oneConn struct {
	conn net.Conn
	once atomic.Bool
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.once.Swap(true) {
		return l.conn, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// following runs f in a bubble with a transport whose upstream is a name of z.
func following(t *testing.T, change func(*Transport), f func(t *testing.T, tr *Transport, z *zone)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		z := new(zone)
		z.names(oldAddr)
		tr := newTransport(t, change)
		tr.core.h2Transport.DialContext = tr.core.dialer(z.dial)
		tr.core.users.join(&user{logger: tr.core.log(), addresses: []address{{"tcp", pipeAddr}}})
		if tr.core.names != nil {
			tr.core.names = resolve.NewFollower(tr.core.cfg.followDNS, func(context.Context, string) ([]netip.Addr, error) {
				z.lookups.Add(1)
				return z.lookup()
			}, tr.core.named)
		}
		f(t, tr, z)
		_ = tr.Cleanup()
		synctest.Wait()
		time.Sleep(2 * time.Hour)
	})
}

// closesFor returns how many connections of tr were closed for a reason.
func closesFor(tr *Transport, reason string) (n int64) {
	for _, s := range tr.core.states(time.Now()) {
		for why, count := range s.Closes {
			if string(why) == reason {
				n += count
			}
		}
	}
	return n
}
