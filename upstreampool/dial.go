package upstreampool

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/memory"
)

// An opening is one dial. It travels in the context, through net/http, to the
// functions that open the socket.
type opening struct {
	context.Context // carries nothing but the deadline
	*connpool.Dial
	tg         *target
	vars       map[string]any
	connect    time.Duration // how long TCP took to connect; 0: unknown
	negotiated string        // by ALPN, where we did the handshake
	dialTimes
}

type openingKey struct{}

// Value gives the dialer what it looks for, and nothing of the request that
// happened to cause the dial: that may be over long before.
func (o *opening) Value(k any) any {
	switch k {
	case openingKey{}:
		return o
	case dialInfoKey:
		return o.tg.info()
	case caddyhttp.VarsCtxKey:
		return o.vars
	}
	return o.Context.Value(k)
}

func openingIn(ctx context.Context) *opening {
	o, _ := ctx.Value(openingKey{}).(*opening)
	return o
}

// dial opens a connection. It takes as long as the timeouts allow, whatever becomes
// of the requests that wait for it. Until a request is sent, lb_retries may try
// another upstream: all its errors are those of a dial.
func (c *core) dial(d *connpool.Dial, tg *target, label string) (connpool.Dialed, error) {
	timeout := c.cfg.dialTimeout + c.cfg.handshake
	if tg.proxyURL != nil {
		timeout *= 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	o := &opening{Context: ctx, Dial: d, tg: tg, vars: make(map[string]any, 2)}
	if c.cfg.proxyProtocol {
		o.vars[proxyProtocolVar] = reverseproxy.ProxyProtocolInfo{AddrPort: tg.source}
	}
	if tg.proxyURL != nil {
		o.vars[proxyVar] = tg.proxyURL
	}
	tr := c.h2Transport
	if tg.h1 {
		tr = c.h1Transport
	}
	ctx = o
	if tg.proxyURL != nil {
		ctx = httptrace.WithClientTrace(o, o.traceHandshake())
	}
	cc, err := tr.NewClientConn(ctx, tg.scheme, tg.address())
	if err != nil {
		return connpool.Dialed{}, dialError(err)
	}
	// Before its first request, an HTTP/1 connection has one slot and an HTTP/2
	// connection a hundred or what its SETTINGS say.
	h2 := !tg.h1 && (c.h2c(tg.key) || o.negotiated == "h2" || cc.Available() > 1)
	o.observe(label)
	return connpool.Dialed{Conn: cc, HTTP2: h2, Connect: o.connect}, nil
}

// dialError makes err the error of a dial, if it is none.
func dialError(err error) error {
	if _, ok := errors.AsType[reverseproxy.DialError](err); ok {
		return err
	}
	return reverseproxy.NewDialError(err)
}

// protocol tells what connections of key k speak, where that is not negotiated.
func (c *core) protocol(k key) memory.Protocol {
	switch {
	case c.h2c(k) && !k.h1:
		return memory.HTTP2
	case k.h1 || k.scheme == "http":
		return memory.HTTP1
	}
	return memory.Negotiated
}

// speaksHTTP2 tells whether the next connection of key k, to up, will speak HTTP/2, as
// far as is known.
func (c *core) speaksHTTP2(k key, up *upstream) bool {
	p := c.protocol(k)
	if p == memory.Negotiated {
		p = up.Protocol()
	}
	return p == memory.HTTP2
}

// maySpeakHTTP2 tells whether connections of key k can speak HTTP/2.
func (c *core) maySpeakHTTP2(k key) bool { return c.h2c(k) || c.cfg.h2 && k.scheme == "https" }

// h2c tells whether HTTP/2 is spoken by prior knowledge; over TLS to a forward
// proxy net/http speaks HTTP/1.
func (c *core) h2c(k key) bool {
	return c.cfg.h2c && k.scheme == "http" && !strings.HasPrefix(k.proxy, "https:")
}

// dialer returns the replacement of a transport's DialContext: the original,
// under a netConn.
func (c *core) dialer(original func(ctx context.Context, network, addr string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		o := openingIn(ctx)
		if o == nil {
			return nil, fmt.Errorf("dialing '%s': not for a pool", addr)
		}
		var timer connectTimer
		began := time.Now()
		nc, err := original(httptrace.WithClientTrace(ctx, timer.trace()), network, addr)
		if err != nil {
			return nil, err
		}
		o.connect, o.socket = timer.took(), time.Since(began)
		return o.Wrap(nc, o.tg.scheme == "http" && o.tg.proxyURL == nil), nil
	}
}

// tlsDialer returns the replacement of a transport's DialTLSContext. The
// connection it returns is a bare *tls.Conn, without which net/http would not
// speak HTTP/2.
func (c *core) tlsDialer(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		o := openingIn(ctx)
		cfg := c.tls.Clone()
		if o.tg.proxyURL == nil {
			cfg.ServerName = o.tg.sni
			cfg.ClientSessionCache = c.sessionsOf(o.tg.certificate)
			if o.tg.h1 {
				cfg.NextProtos = nil
			}
		} else {
			// This is the connection to the forward proxy, over which net/http
			// will ask for a tunnel in HTTP/1.
			cfg.NextProtos = nil
			if host, _, err := net.SplitHostPort(addr); err == nil {
				cfg.ServerName = host
			}
		}
		tc := tls.Client(nc, cfg)
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, c.cfg.handshake)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = tc.Close()
			return nil, err
		}
		if o.tg.proxyURL == nil {
			state := tc.ConnectionState()
			o.negotiated = state.NegotiatedProtocol
			o.secured(began, state)
			o.Secured()
		}
		return tc, nil
	}
}

// proxyOf is the Proxy function of the transports: what was found out on the
// goroutine of the request.
func proxyOf(req *http.Request) (*url.URL, error) {
	if o := openingIn(req.Context()); o != nil {
		return o.tg.proxyURL, nil
	}
	return nil, nil
}

// connectTimer measures how long TCP took to connect, leaving out name
// resolution and addresses that did not answer.
type connectTimer struct {
	mu    sync.Mutex
	since map[string]time.Time
	last  time.Duration
}

func (t *connectTimer) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		ConnectStart: func(_, addr string) {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.since == nil {
				t.since = make(map[string]time.Time, 2)
			}
			t.since[addr] = time.Now()
		},
		ConnectDone: func(_, addr string, err error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			if start, ok := t.since[addr]; ok && err == nil {
				t.last = time.Since(start)
			}
		},
	}
}

func (t *connectTimer) took() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}
