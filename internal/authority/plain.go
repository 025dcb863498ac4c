package authority

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tlsListeners says which listeners of a server have TLS. It goes by the http
// app's Start: all have it if the server has TLS connection policies, but for
// those on the HTTP port.
type tlsListeners struct {
	policies bool
	// plain: the HTTP port is among the server's addresses.
	plain    bool
	httpPort uint
	// http3: one listener with TLS speaks HTTP/3.
	http3 bool
}

func findTLSListeners(srv *caddyhttp.Server, httpPort uint) tlsListeners {
	l := tlsListeners{policies: len(srv.TLSConnPolicies) > 0, httpPort: httpPort}
	for i, address := range srv.Listen {
		addr, err := caddy.ParseNetworkAddress(address)
		if err != nil {
			continue // Caddy refuses it
		}
		protocols := srv.Protocols
		if srv.ListenProtocols != nil && srv.ListenProtocols[i] != nil {
			protocols = srv.ListenProtocols[i]
		}
		// A UDP address has HTTP/3 alone, which has no plain form; unix sockets and
		// file descriptors have no port, and count as port 0.
		ports := !addr.IsUnixNetwork() && !addr.IsFdNetwork() && !strings.HasPrefix(addr.Network, "udp")
		has := addr.StartPort <= httpPort && httpPort <= addr.EndPort
		listens := slices.ContainsFunc(protocols, func(p string) bool { return p == "h1" || p == "h2c" })
		l.plain = l.plain || ports && has && listens
		others := !has || addr.EndPort > addr.StartPort
		l.http3 = l.http3 || l.policies && others && !addr.IsUnixNetwork() && slices.Contains(protocols, "h3")
	}
	return l
}

// httpPort is the port without TLS of the http app that ctx is for. The app is
// among those that are being provisioned, so ctx.App does not have it yet.
func httpPort(ctx caddy.Context) uint {
	for _, module := range ctx.Modules() {
		if app, ok := module.(*caddyhttp.App); ok {
			return uint(cmp.Or(app.HTTPPort, caddyhttp.DefaultHTTPPort))
		}
	}
	return caddyhttp.DefaultHTTPPort
}

// Plain tells of a request without TLS state whether it came through a listener
// without TLS. Where the server has such a listener, the local port decides. It
// must not where there is none: behind the proxy_protocol listener wrapper, the
// client's load balancer says what that port is.
//
// A request without TLS state that came through another listener hides TLS: a
// listener wrapper stands behind TLS, and its connections do not show the TLS
// connection below.
//
// What Caddy asks itself came through no listener, so no connection can be wrong for
// it.
func (s *Server) Plain(r *http.Request) bool {
	if !s.tls.policies || included(r) {
		return true
	}
	if !s.tls.plain {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	if tcp, ok := local.(*net.TCPAddr); ok {
		return uint(tcp.Port) == s.tls.httpPort
	}
	addr, err := netip.ParseAddrPort(local.String())
	return err == nil && uint(addr.Port()) == s.tls.httpPort
}

// included tells whether the templates handler made the request, to include one page
// in another of the same host (httpInclude). It has no TLS state then. Clients may send
// the field, too, but net/http puts its server into the context of their requests.
func included(r *http.Request) bool {
	return r.Header.Get("Caddy-Templates-Include") != "" && r.Context().Value(http.ServerContextKey) == nil
}

// HTTP3 tells whether the server offers HTTP/3 on one of its addresses.
func (s *Server) HTTP3() bool { return s.tls.http3 }
