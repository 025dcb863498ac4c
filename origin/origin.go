// Package origin is a listener wrapper that tells HTTP/2 clients at the start of
// a connection which origins belong on it.
package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
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
// it. Listeners without TLS and connections of HTTP/1.1 and HTTP/3 are left as they
// are.
type ListenerWrapper struct {
	// The origins to advertise.
	//
	// `auto`: on each connection, every exact name that the certificate presented
	// there covers, that a site of this server is there for, that has the same TLS
	// connection policy, and that no `misdirected` handler nor `strict_sni_host`
	// refuses there. Names come from the certificate, and where that has a
	// wildcard, from the host matchers of routes.
	//
	// `none`: no other origin than that of the name connected to. The frame is
	// empty (RFC 8336 appendix B).
	//
	// Else a list of origins, `https://host` or `https://host:port`. On each
	// connection those are left out that do not meet the conditions of `auto`, with
	// a warning for each reason.
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

	choice   choice
	sets     *authority.OriginSets
	server   *caddyhttp.Server
	httpPort uint // which has no TLS
	counters *counters
	logger   *zap.Logger
	stdlib   *zap.Logger
	logged   *sync.Map // reasons for which names were left out
}

// CaddyModule returns the Caddy module information.
func (ListenerWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.origin",
		New: func() caddy.Module { return new(ListenerWrapper) },
	}
}

const (
	auto = "auto"
	none = "none"

	defaultMaxOrigins = 32
	mostMaxOrigins    = 1000

	// cutNamed is how many of the origins are named for which there is no room.
	cutNamed = 20
)

// Provision checks the configuration, all of it, and sets up the wrapper.
func (l *ListenerWrapper) Provision(ctx caddy.Context) error {
	l.logger, l.logged = ctx.Logger(), new(sync.Map)
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
	if err := checkOrder(l.server.ListenerWrappersRaw); err != nil {
		return err
	}
	l.httpPort = httpPort(ctx)
	if err := checkProtocols(l.server, l.httpPort); err != nil {
		return err
	}
	// one more than needed, since one may be the connection's own
	l.sets = authority.NewOriginSets(server, names, l.choice.most+1+cutNamed)
	server.SetOrigins(l)
	l.counters, err = newCounters(ctx.GetMetricsRegistry(), l.server.Name())
	return err
}

// compile reads the configuration and returns all that is wrong with it; names
// are those listed, nil for none.
func (l *ListenerWrapper) compile() (ch choice, names []string, err error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch {
	case len(l.Origins) == 0 || slices.Equal(l.Origins, []string{auto}):
	case slices.Equal(l.Origins, []string{none}):
		ch.none = true
		if l.PublicPort != 0 {
			fail("reading public_port '%d': must not be set with origins none", l.PublicPort)
		}
		if l.MaxOrigins != 0 {
			fail("reading max_origins '%d': must not be set with origins none", l.MaxOrigins)
		}
	case len(l.Origins) > mostMaxOrigins:
		fail("reading origins: there are %d, must be at most %d", len(l.Origins), mostMaxOrigins)
	default:
		ch.ports = make(map[string][]uint16)
		for _, text := range l.Origins {
			if text == auto || text == none {
				fail("reading origins '%s': must stand alone", text)
				continue
			}
			o, err := parseOrigin(text)
			switch {
			case err != nil:
				errs = append(errs, err)
			case slices.Contains(ch.ports[o.name], o.port):
				fail("reading origin '%s': must be listed only once, and is before as '%s'", text, o)
			default:
				if ch.ports[o.name] == nil {
					names = append(names, o.name)
				}
				ch.ports[o.name] = append(ch.ports[o.name], o.port)
			}
		}
	}
	if l.PublicPort < 0 || l.PublicPort > 65535 {
		fail("reading public_port '%d': must be from 1 to 65535", l.PublicPort)
	}
	ch.public = uint16(l.PublicPort)
	switch {
	case l.MaxOrigins == 0:
		ch.most = defaultMaxOrigins
	case l.MaxOrigins < 0 || l.MaxOrigins > mostMaxOrigins:
		fail("reading max_origins '%d': must be from 1 to %d", l.MaxOrigins, mostMaxOrigins)
	default:
		ch.most = l.MaxOrigins
	}
	return ch, names, errors.Join(errs...)
}

// checkOrder refuses a list of listener wrappers in which this one would do
// nothing, or send everything twice.
func checkOrder(wrappers []json.RawMessage) error {
	seen := false
	for _, raw := range wrappers {
		var module struct {
			Wrapper string `json:"wrapper"`
		}
		if err := json.Unmarshal(raw, &module); err != nil {
			return fmt.Errorf("reading listener_wrappers: %v", err)
		}
		switch {
		case seen && module.Wrapper == "tls":
			return errors.New("reading listener_wrappers: origin must stand behind tls")
		case seen && module.Wrapper == "origin":
			return errors.New("reading listener_wrappers: origin must be listed only once")
		}
		seen = seen || module.Wrapper == "origin"
	}
	return nil
}

// checkProtocols refuses listeners with TLS that have no HTTP/2 while the server
// has it elsewhere. Caddy lets clients select it on all of them then; behind any
// listener wrapper it would hang up on those that do where it is not to be had.
func checkProtocols(srv *caddyhttp.Server, httpPort uint) error {
	with, without := "", ""
	for i, address := range srv.Listen {
		if slices.Contains(protocols(srv, i), "h2") {
			with = address
		} else if _, ok := tlsPort(srv, i, httpPort); ok {
			without = address
		}
	}
	if with != "" && without != "" {
		return fmt.Errorf("reading listen_protocols: origin must have h2 on all TLS listeners of its server or on none, but '%s' has it and '%s' has not", with, without)
	}
	return nil
}

// WrapListener implements caddy.ListenerWrapper.
func (l *ListenerWrapper) WrapListener(ln net.Listener) net.Listener {
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
