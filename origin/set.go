package origin

import (
	"fmt"
	"net"
	"net/netip"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A choice says what the ORIGIN frames of a server's connections hold.
type choice struct {
	none bool
	// ports are those of the origins listed, by name; nil is automatic.
	ports map[string][]uint16
	// public is the port that clients connect to, 0 if it is the listener's.
	public uint16
	most   int
}

// origins returns what goes into the frame, and some of what would too if there
// were room. The name and port of the connection itself are left out: they are in
// a client's origin set from the start (RFC 8336 section 2.3).
func (ch *choice) origins(sni string, port uint16, names []string) (in, cut []origin) {
	for _, name := range names {
		ports := ch.ports[name]
		if ch.ports == nil {
			ports = []uint16{port}
		}
		for _, p := range ports {
			switch {
			case name == sni && p == port:
			case len(in) < ch.most:
				in = append(in, origin{name, p})
			case len(cut) < cutNamed:
				cut = append(cut, origin{name, p})
			default:
				return in, cut
			}
		}
	}
	return in, cut
}

// port returns the port that clients connect to, 0 if there is none to know of.
func (ch *choice) port(local net.Addr) uint16 {
	if ch.public != 0 {
		return ch.public
	}
	switch addr := local.(type) {
	case *net.TCPAddr:
		return uint16(addr.Port)
	case nil:
		return 0
	default: // a unix socket has none
		parsed, _ := netip.ParseAddrPort(addr.String())
		return parsed.Port()
	}
}

// What keeps an origin out of a frame, besides [authority.Absence].
const (
	overLimit = "there are more origins than max_origins"
	noPort    = "the listener has no port; set public_port"
)

// frames returns the ORIGIN frames for a new connection.
func (l *ListenerWrapper) frames(serverName string, local net.Addr) frames {
	if l.choice.none {
		return encode(nil)
	}
	// A server name that is invalid selected a policy and a certificate in
	// ways that no lookup can follow: nothing is said to be right for it.
	sni, err := hostname.ParseSNI(serverName)
	if err != nil {
		sni = ""
	}
	set := l.sets.Find(sni)
	port := l.choice.port(local)
	names := l.names(set, port)
	if names == nil {
		leftOut(l, noPort, zapcore.WarnLevel, serverName, set.Names)
	}
	in, cut := l.choice.origins(sni, port, names)

	// What is automatic leaves out what is configured to be apart; what the
	// operator listed was meant to be used.
	level := zapcore.WarnLevel
	if l.choice.ports == nil {
		level = zapcore.DebugLevel
	}
	if sni != "" { // without one, no name was judged
		for reason, names := range set.Absent {
			leftOut(l, authority.Absence(reason).String(), level, serverName, names)
		}
	}
	if len(cut) > 0 {
		leftOut(l, overLimit, zapcore.WarnLevel, serverName, cut)
	}

	out := encode(in)
	out.cut = len(cut) > 0
	return out
}

// names are those of a set that can be made origins of.
func (l *ListenerWrapper) names(set *authority.OriginSet, port uint16) []string {
	if port == 0 && l.choice.ports == nil {
		return nil
	}
	return set.Names
}

// leftOut logs that names are left out, once for each reason: a client can open
// as many connections as it likes.
func leftOut[N string | origin](l *ListenerWrapper, reason string, level zapcore.Level, serverName string, names []N) {
	if len(names) == 0 {
		return
	}
	if _, before := l.logged.LoadOrStore(reason, true); before {
		return
	}
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = fmt.Sprint(name)
	}
	l.logger.Log(level, "origins are left out of the ORIGIN frame",
		zap.String("reason", reason),
		zap.String("sni", serverName),
		zap.Strings("origins", texts))
}
