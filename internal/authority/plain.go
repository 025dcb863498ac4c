package authority

import (
	"net"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// tlsListeners says which listeners of a server have TLS.
type tlsListeners struct {
	policies bool
	// plain: one listener has no TLS, though the server has policies.
	plain    bool
	httpPort uint
	// http3: one place speaks HTTP/3.
	http3 bool
}

func findTLSListeners(srv *caddyhttp.Server, httpPort uint) tlsListeners {
	l := tlsListeners{policies: len(srv.TLSConnPolicies) > 0, httpPort: httpPort}
	for p := range places(srv, httpPort) {
		l.plain = l.plain || l.policies && p.Listens && !p.TLS
		l.http3 = l.http3 || p.HTTP3
	}
	return l
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
