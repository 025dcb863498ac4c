// Package origin is a listener wrapper that tells HTTP/2 clients at the start of
// a connection which origins belong on it.
//
//	{
//		servers {
//			listener_wrappers {
//				origin
//			}
//		}
//	}
//
// A connection comes in and a frame goes out:
//
//   - conn.go wraps the connection: handshake, and the place behind SETTINGS
//   - choice.go says which origins go out, and logs what is left out
//   - origin.go and frame.go write an origin and a frame
//   - http3.go and h3layout.go do the same for HTTP/3
//   - listeners.go and check.go look at what the server listens on, and at the
//     wrappers in front
//   - caddyfile.go reads the configuration, wrapper.go is the module
//   - explain.go answers the admin API, metrics.go counts
//
// Which names a connection may be told of is known to internal/authority.
package origin

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

func init() {
	caddy.RegisterModule(ListenerWrapper{})
}

// ListenerWrapper sends an ORIGIN frame (RFC 8336) at the start of each HTTP/2
// connection over TLS, directly behind the server's SETTINGS. A client that knows
// the frame then uses the connection for these origins and for the name it
// connected to, and for nothing else: it does not have to look up their addresses,
// and it does not run into `421 Misdirected Request`. Clients that do not know the
// frame ignore it.
//
// It belongs directly behind `tls` in the list of listener wrappers, or alone in
// it. Listeners without TLS and connections of HTTP/1.1 are left as they are, and so
// are those of HTTP/3 unless `http3` is set.
type ListenerWrapper struct {
	// The origins to advertise.
	//
	// `auto`: on each connection, every host that a host matcher of this server names
	// exactly, that the certificate presented there spells out, that has the same TLS
	// connection policy, and that no `misdirected` handler nor `strict_sni_host` refuses
	// there. So a stranger learns no name that the certificate does not tell. Hosts that
	// only a wildcard or a catch-all serves are not told of: another machine may be there
	// for them. Where all that the certificate covers would be accepted, and not all of
	// it can be named, no frame is sent: it could only take away connections that
	// clients may share without it.
	//
	// `sites`: those of `auto`, and the hosts that host matchers name exactly and that
	// the certificate covers by a wildcard. Anybody who connects learns these names.
	// Those that stand in `not`, or beside matchers on who the client is (`remote_ip`,
	// `client_ip`, `vars`, `expression`, `header` and the like), are left out.
	//
	// `none`: no other origin than that of the name connected to. The frame is
	// empty (RFC 8336 appendix B).
	//
	// Else a list of origins, `https://host` or `https://host:port`. On each
	// connection those are left out that its certificate does not cover, that have
	// another TLS connection policy, that would be refused there, or that no route is
	// there for, with a warning for each reason.
	//
	// Default: `auto`.
	Origins []string `json:"origins,omitempty"`

	// The port that clients connect to, from 1 to 65535, where that is another than
	// the listener's: behind a port mapping, for example (RFC 8336 section 2.3).
	// Listed origins have a port of their own. Default: the port of the listener,
	// or that of a PROXY protocol header.
	PublicPort int `json:"public_port,omitempty"`

	// How many origins a connection is told of, from 1 to 1000. What is more is
	// left out: the last ones of the list, or in alphabetical order. Default: 32.
	MaxOrigins int `json:"max_origins,omitempty"`

	// Whether HTTP/3 connections are told as well (RFC 9412), of at most 20 origins;
	// those with the same registrable domain come first. Chromium then uses one
	// connection for them, and looks up no addresses. Neither Caddy nor quic-go has a
	// hook for this, so it is experimental: where either is built in another way than
	// those it is known to work with, there is a warning and nothing else changes.
	// Default: false.
	HTTP3 bool `json:"http3,omitempty"`

	choice   choice
	ctx      caddy.Context
	sets     *authority.OriginSets
	server   *caddyhttp.Server
	board    *board
	counters *counters
	logger   *zap.Logger
	stdlib   *zap.Logger
	logged   *sync.Map     // reasons for which names were left out
	looks    *atomic.Int32 // at what is withheld
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.origin",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

const (
	auto  = "auto"
	sites = "sites"
	none  = "none"

	defaultMaxOrigins = 32
	mostMaxOrigins    = 1000

	// cutNamed is how many of the origins are named for which there is no room.
	cutNamed = 20
)

// Provision checks the configuration, all of it, and sets up the wrapper.
func (l *ListenerWrapper) Provision(ctx caddy.Context) error {
	l.ctx = ctx
	l.logger, l.logged, l.looks = ctx.Logger(), new(sync.Map), new(atomic.Int32)
	l.stdlib = ctx.Logger(new(caddyhttp.App)).Named("stdlib")
	var names []string
	var err error
	if l.choice, names, err = l.compile(); err != nil {
		return err
	}
	server, err := authority.ForServer(ctx)
	if err != nil {
		return err
	}
	l.server = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	unknown, err := checkOrder(l.server)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		l.logger.Warn("listener wrappers that are not known to leave TLS visible stand behind it: should their connections hide it, "+
			"Caddy takes every request for one without TLS",
			zap.Strings("wrappers", unknown),
			zap.String("server", server.Name()))
	}
	if err := checkProtocols(server); err != nil {
		return err
	}
	l.board = &board{places: listeners(server), http3: l.beforeHTTP3(server)}
	// one more than needed, since one may be the connection's own
	l.sets = authority.NewOriginSets(server, l.choice.naming, names, l.choice.most+1+cutNamed)
	server.SetOrigins(l)
	l.counters, err = newCounters(ctx.GetMetricsRegistry(), l.server.Name())
	return err
}

// WrapListener implements caddy.ListenerWrapper.
func (l *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
	if l.board.open(ln.Addr()) && l.HTTP3 {
		l.startHTTP3()
	}
	return &listener{Listener: ln, server: l}
}

// timeouts are those of net/http's Server: tlsHandshakeTimeout and
// readHeaderTimeout.
func (l *ListenerWrapper) timeouts() (handshake, header time.Duration) {
	for _, d := range [...]caddy.Duration{l.server.ReadHeaderTimeout, l.server.ReadTimeout, l.server.WriteTimeout} {
		if d := time.Duration(d); d > 0 && (handshake == 0 || d < handshake) {
			handshake = d
		}
	}
	header = time.Duration(l.server.ReadHeaderTimeout)
	if header == 0 {
		header = time.Duration(l.server.ReadTimeout)
	}
	return handshake, header
}

// logf logs where net/http's own messages go.
func (l *ListenerWrapper) logf(format string, args ...any) {
	if c := l.stdlib.Check(zapcore.DebugLevel, ""); c != nil {
		c.Message = fmt.Sprintf(format, args...)
		c.Write()
	}
}

func (l *ListenerWrapper) sent(f frames) { l.counters.count(f) }

// Interface guards
var (
	_ caddy.Provisioner     = (*ListenerWrapper)(nil)
	_ caddy.ListenerWrapper = (*ListenerWrapper)(nil)
	_ server                = (*ListenerWrapper)(nil)

	_ authority.OriginExplainer = (*ListenerWrapper)(nil)
)
