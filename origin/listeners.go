package origin

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

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

// A place is where Caddy opens a listener of a server for HTTP over TCP or a socket.
type place struct {
	address string // with its network
	port    uint16 // 0 where it has none
	tls     bool
	h2      bool
}

// places returns the places of a server in the order in which the http app's Start
// opens them.
func places(srv *caddyhttp.Server, httpPort uint) (list []place) {
	for i := range srv.Listen {
		list = append(list, placesOf(srv, i, httpPort)...)
	}
	return list
}

// placesOf returns the places of a server's i-th address, one for each port. HTTP/3
// has no listener, and the HTTP port no TLS.
func placesOf(srv *caddyhttp.Server, i int, httpPort uint) (list []place) {
	addr, err := caddy.ParseNetworkAddress(srv.Listen[i])
	if err != nil {
		return nil
	}
	has := func(protocol string) bool { return slices.Contains(protocols(srv, i), protocol) }
	for offset := range addr.PortRangeSize() {
		port := addr.StartPort + offset
		withTLS := len(srv.TLSConnPolicies) > 0 && port != httpPort
		if has("h1") || has("h2") && withTLS || has("h2c") {
			at := addr.At(offset)
			text := caddy.JoinNetworkAddress(cmp.Or(at.Network, "tcp"), at.Host, portText(at))
			list = append(list, place{address: text, port: uint16(port), tls: withTLS, h2: has("h2")})
		}
	}
	return list
}

// portText is the port of an address, "" where it has none.
func portText(addr caddy.NetworkAddress) string {
	if addr.IsUnixNetwork() || addr.IsFdNetwork() {
		return ""
	}
	return strconv.FormatUint(uint64(addr.StartPort), 10)
}

// A board says where the listeners of a server are. What the config leaves to the
// system, a port or all of an inherited socket, is known once a listener is open.
type board struct {
	mu     sync.Mutex
	places []place
	next   int
	http3  string // what keeps ORIGIN frames from HTTP/3, "" is nothing
}

// open is told of the listeners, in the order of places. It returns whether this is the
// first.
func (b *board) open(addr net.Addr) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == len(b.places) || addr == nil {
		return false
	}
	p := &b.places[b.next]
	b.next++
	p.address, p.port = addr.Network()+"/"+addr.String(), portOf(addr)
	return b.next == 1
}

// setHTTP3 is told what keeps ORIGIN frames from HTTP/3.
func (b *board) setHTTP3(problem string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.http3 = problem
}

// withoutHTTP3 returns what keeps ORIGIN frames from HTTP/3, "" if nothing does.
func (b *board) withoutHTTP3() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.http3
}

// withTLS returns the places with TLS.
func (b *board) withTLS() (list []place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.places {
		if p.tls {
			list = append(list, p)
		}
	}
	return list
}

// portOf returns the port of an address, 0 where it has none.
func portOf(addr net.Addr) uint16 {
	switch addr := addr.(type) {
	case *net.TCPAddr:
		return uint16(addr.Port)
	case nil:
		return 0
	default: // a unix socket has none
		parsed, _ := netip.ParseAddrPort(addr.String())
		return parsed.Port()
	}
}
