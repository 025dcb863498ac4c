package origin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
	"go.uber.org/zap"
	"golang.org/x/net/publicsuffix"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// mostHTTP3 is how many origins go into a frame on HTTP/3: Chromium takes no more.
const mostHTTP3 = 20

// What keeps the frames from HTTP/3.
const (
	http3Off     = "the option http3 is not set"
	http3Waiting = "the server has not begun to listen"
	http3Nowhere = "no address of the server has HTTP/3 and TLS"
	http3Early   = "an address for HTTP/3 alone is listed first; list one for HTTP/1 or HTTP/2 in front of it"
)

// cannotHTTP3 says what in the configuration keeps the frames from HTTP/3, if anything:
// Caddy must open a listener, which the wrapper sees, before it begins with HTTP/3.
func cannotHTTP3(server *authority.Server) string {
	listens := false
	for p := range server.Places() {
		listens = listens || p.Listens
		switch {
		case !p.HTTP3:
		case listens:
			return ""
		default:
			return http3Early
		}
	}
	return http3Nowhere
}

// An http3Sender sends ORIGIN frames on HTTP/3 (RFC 9412), where neither Caddy nor
// quic-go has a hook for it. It is the handler of the http3.Server that it makes in
// Caddy's place, so that it sees connections and their first requests.
type http3Sender struct {
	wrapper *ListenerWrapper
	layout  *layout
	next    http.Handler
}

const http3Warning = "HTTP/3 connections get no ORIGIN frames"

// beforeHTTP3 returns what keeps the frames from HTTP/3 as long as the server does not
// listen, and warns if that will stay so.
func (l *ListenerWrapper) beforeHTTP3(server *authority.Server) string {
	if !l.HTTP3 {
		return http3Off
	}
	if problem := cannotHTTP3(server); problem != "" {
		l.logger.Warn(http3Warning, zap.String("reason", problem), zap.String("server", l.server.Name()))
		return problem
	}
	return http3Waiting
}

// startHTTP3 is called when the first listener of the server is open.
func (l *ListenerWrapper) startHTTP3() {
	if l.board.withoutHTTP3() != http3Waiting {
		return
	}
	problem := l.installHTTP3()
	if problem != "" {
		l.logger.Warn(http3Warning, zap.String("reason", problem), zap.String("server", l.server.Name()))
	}
	l.board.setHTTP3(problem)
}

// installHTTP3 makes the server's http3.Server, which Caddy makes only where there is
// none. It says what keeps it from that. It must be called before Caddy begins to
// listen for HTTP/3, and before the server answers requests.
func (l *ListenerWrapper) installHTTP3() (problem string) {
	layout, err := quicLayout()
	if err != nil {
		return "this Caddy or its quic-go is built in another way: " + err.Error()
	}
	place := layout.server(l.server)
	if *place != nil {
		return http3Early
	}
	s := &http3Sender{wrapper: l, layout: layout, next: l.server}
	// Handler and ConnContext aside, as caddyhttp's serveHTTP3 makes it.
	*place = &http3.Server{
		Handler:        s,
		TLSConfig:      l.server.TLSConnPolicies.TLSConfig(l.ctx),
		MaxHeaderBytes: l.server.MaxHeaderBytes,
		IdleTimeout:    time.Duration(l.server.IdleTimeout),
		ConnContext:    s.connContext,
	}
	return ""
}

// An h3conn is a connection that may still need its ORIGIN frame.
type h3conn struct {
	conn *quic.Conn
	told atomic.Bool
}

type h3connKey struct{}

func (s *http3Sender) connContext(ctx context.Context, conn *quic.Conn) context.Context {
	return context.WithValue(ctx, h3connKey{}, &h3conn{conn: conn})
}

// ServeHTTP implements http.Handler.
func (s *http3Sender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(h3connKey{}).(*h3conn); ok && !c.told.Load() && c.told.CompareAndSwap(false, true) {
		s.tell(c, r)
	}
	s.next.ServeHTTP(w, r)
}

// tell puts an ORIGIN frame on the control stream of a connection. SETTINGS, which
// must come first there (RFC 9114 section 7.2.4), were queued before the first request
// was read. It never waits: a client that gives no room for the frame gets it with a
// later request, or not at all.
func (s *http3Sender) tell(c *h3conn, r *http.Request) {
	if r.TLS == nil {
		return
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	t := s.wrapper.originsFor(r.TLS.ServerName, local)
	if !t.frame {
		return
	}
	out := encodeHTTP3(http3Origins(t.sni, t.in))
	control, err := s.layout.control(c.conn)
	if err == nil {
		err = control.TryWriteAll(out.bytes)
	}
	switch {
	case err == nil:
		s.wrapper.sent(out)
	case errors.Is(err, quic.ErrWouldBlock):
		c.told.Store(false)
	default: // the connection is about to end
		if e := s.wrapper.logger.Check(zap.DebugLevel, "no ORIGIN frame on an HTTP/3 connection"); e != nil {
			e.Write(zap.Error(err))
		}
	}
}

// http3Origins are those that fit in a frame that clients read to its end: first those
// with the same registrable domain as the connection, then the others, in order.
func http3Origins(sni string, origins []origin) []origin {
	own, err := publicsuffix.EffectiveTLDPlusOne(sni)
	if err != nil || len(origins) <= mostHTTP3 {
		return origins[:min(len(origins), mostHTTP3)]
	}
	var same, others []origin
	for _, o := range origins {
		if domain, err := publicsuffix.EffectiveTLDPlusOne(o.name); err == nil && domain == own {
			same = append(same, o)
		} else {
			others = append(others, o)
		}
	}
	return append(same, others...)[:mostHTTP3]
}

// encodeHTTP3 writes origins as one frame of HTTP/3 (RFC 9412 section 2): the payload
// is that of HTTP/2.
func encodeHTTP3(origins []origin) frames {
	var payload []byte
	for _, o := range origins {
		payload = o.appendEntry(payload)
	}
	frame := quicvarint.Append(nil, uint64(frameType))
	frame = quicvarint.Append(frame, uint64(len(payload)))
	return frames{bytes: append(frame, payload...), count: 1, origins: len(origins)}
}

// Interface guards
var _ http.Handler = (*http3Sender)(nil)
