package origin

import (
	"cmp"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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

// protocols are those of a server's i-th address.
func protocols(srv *caddyhttp.Server, i int) []string {
	if srv.ListenProtocols != nil && srv.ListenProtocols[i] != nil {
		return srv.ListenProtocols[i]
	}
	return srv.Protocols
}

// tlsPort returns the first port of a server's i-th address on which Caddy opens
// a listener with TLS, 0 where that has no port, and false if there is none. It
// goes by the http app's Start: HTTP/3 has no listener, and the HTTP port no TLS.
func tlsPort(srv *caddyhttp.Server, i int, httpPort uint) (port uint, ok bool) {
	addr, err := caddy.ParseNetworkAddress(srv.Listen[i])
	listens := slices.ContainsFunc(protocols(srv, i), func(p string) bool { return p == "h1" || p == "h2" || p == "h2c" })
	if err != nil || len(srv.TLSConnPolicies) == 0 || !listens {
		return 0, false
	}
	port = addr.StartPort
	if port == httpPort {
		port++
	}
	return port, port <= addr.EndPort
}
