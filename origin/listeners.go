package origin

import (
	"cmp"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// A place is where Caddy opens a listener of a server for HTTP over TCP or a socket.
type place struct {
	address string // with its network
	port    uint16 // 0 where it has none
	tls     bool
	h2      bool
}

// listeners returns the places of a server where there are listeners, in their order.
func listeners(server *authority.Server) (list []place) {
	for p := range server.Places() {
		if p.Listens {
			text := caddy.JoinNetworkAddress(cmp.Or(p.Address.Network, "tcp"), p.Address.Host, portText(p.Address))
			list = append(list, place{address: text, port: uint16(p.Address.StartPort), tls: p.TLS, h2: p.H2})
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

// open is told of the listeners, in the order in which they are opened. It returns whether this is the
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
