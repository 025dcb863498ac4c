package authority

import (
	"cmp"
	"iter"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A Place is one port of an address of a server, or its socket.
type Place struct {
	Listed  string // the address, as the config lists it
	Address caddy.NetworkAddress
	// TLS: all places have it if the server has TLS connection policies, but for those
	// on the HTTP port.
	TLS bool
	// Listens: Caddy opens a listener, for HTTP/1 or HTTP/2.
	Listens bool
	// H2: HTTP/2 is among the protocols of the address.
	H2 bool
	// HTTP3: Caddy serves HTTP/3, which has no listener.
	HTTP3 bool
}

// Places are those of the server, in the order in which the http app's Start opens them.
func (s *Server) Places() iter.Seq[Place] { return places(s.http, s.tls.httpPort) }

func places(srv *caddyhttp.Server, httpPort uint) iter.Seq[Place] {
	return func(yield func(Place) bool) {
		for i, listed := range srv.Listen {
			addr, err := caddy.ParseNetworkAddress(listed)
			if err != nil {
				continue // Caddy refuses it
			}
			protocols := srv.Protocols
			if srv.ListenProtocols != nil && srv.ListenProtocols[i] != nil {
				protocols = srv.ListenProtocols[i]
			}
			has := func(protocol string) bool { return slices.Contains(protocols, protocol) }
			h1, h2, http3 := has("h1") || has("h2c"), has("h2"), has("h3") && !addr.IsUnixNetwork()
			for offset := range addr.PortRangeSize() {
				withTLS := len(srv.TLSConnPolicies) > 0 && addr.StartPort+offset != httpPort
				if !yield(Place{listed, addr.At(offset), withTLS, h1 || h2 && withTLS, h2, http3 && withTLS}) {
					return
				}
			}
		}
	}
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
