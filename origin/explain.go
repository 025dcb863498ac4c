package origin

import (
	"fmt"
	"net"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// ExplainOrigins implements [authority.OriginExplainer], for a connection to the
// first of the server's listeners that has TLS and a port.
func (l *ListenerWrapper) ExplainOrigins(serverName string, leftOut bool) authority.OriginExplanation {
	e := authority.OriginExplanation{Origins: []string{}}
	if leftOut {
		e.LeftOut, e.LeftOutCounts = []authority.LeftOut{}, make(map[string]int)
	}
	sni, err := hostname.ParseSNI(serverName)
	switch {
	case l.choice.none:
		e.Why = "origins none: the frame is empty, only this host belongs on the connection"
		return e
	case err != nil:
		e.Why = fmt.Sprintf("the frame is empty: without a valid server name there is nothing to judge by: %v", err)
		return e
	case l.choice.ports == nil:
		e.Why = "origins auto: every exact name of the sites and of the certificate that belongs on the connection"
	default:
		e.Why = "the configured origins, as far as they belong on the connection"
	}
	port := l.choice.port(firstPort(l.server, l.httpPort))
	sent := make(map[origin]bool)
	in, _ := l.choice.origins(sni, port, l.names(l.sets.Find(sni), port))
	for _, o := range in {
		sent[o] = true
		e.Origins = append(e.Origins, o.String())
	}
	if !leftOut {
		return e
	}
	l.sets.Judge(sni, func(name string, why authority.Absence) {
		ports := l.choice.ports[name]
		if l.choice.ports == nil {
			ports = []uint16{port}
		}
		for _, p := range ports {
			switch o := (origin{name, p}); {
			case sent[o] || name == sni && p == port:
			case why != authority.Advertised:
				e.LeaveOut(o.String(), why.String())
			case p == 0:
				e.LeaveOut(origin{name, httpsPort}.String(), noPort)
			default:
				e.LeaveOut(o.String(), overLimit)
			}
		}
	})
	return e
}

// firstPort is where the server's first listener with TLS and a port is, nil if
// there is none.
func firstPort(srv *caddyhttp.Server, httpPort uint) net.Addr {
	for i := range srv.Listen {
		if port, ok := tlsPort(srv, i, httpPort); ok && port != 0 {
			return &net.TCPAddr{Port: int(port)}
		}
	}
	return nil
}
