package origin

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A choice says what the ORIGIN frames of a server's connections hold.
type choice struct {
	none   bool
	naming authority.Naming
	// ports are those of the origins listed, by name.
	ports map[string][]uint16
	// public is the port that clients connect to, 0 if it is the listener's.
	public uint16
	most   int
}

// A number is an option that takes one, from 1 to most; 0 is the default.
type number struct {
	name  string
	most  int
	field func(*ListenerWrapper) *int
}

var numbers = []number{
	{"public_port", 65535, func(l *ListenerWrapper) *int { return &l.PublicPort }},
	{"max_origins", mostMaxOrigins, func(l *ListenerWrapper) *int { return &l.MaxOrigins }},
}

// compile reads the configuration and returns all that is wrong with it; names
// are those listed, nil for none.
func (l *ListenerWrapper) compile() (ch choice, names []string, err error) {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch {
	case len(l.Origins) == 0 || slices.Equal(l.Origins, []string{auto}):
		ch.naming = authority.BySpelling
	case slices.Equal(l.Origins, []string{sites}):
		ch.naming = authority.BySites
	case slices.Equal(l.Origins, []string{none}):
		ch.none, ch.naming = true, authority.Listed
		for _, n := range numbers {
			if value := *n.field(l); value != 0 {
				fail("reading %s '%d': must not be set with origins none", n.name, value)
			}
		}
	case len(l.Origins) > mostMaxOrigins:
		fail("reading origins: there are %d, must be at most %d", len(l.Origins), mostMaxOrigins)
	default:
		ch.naming = authority.Listed
		names, err = ch.list(l.Origins)
		errs = append(errs, err)
	}
	for _, n := range numbers {
		if value := *n.field(l); value < 0 || value > n.most {
			fail("reading %s '%d': must be from 1 to %d", n.name, value, n.most)
		}
	}
	ch.public = uint16(l.PublicPort)
	ch.most = cmp.Or(l.MaxOrigins, defaultMaxOrigins)
	return ch, names, errors.Join(errs...)
}

// list reads the origins of a list and returns their names, each once.
func (ch *choice) list(origins []string) (names []string, err error) {
	var errs []error
	ch.ports = make(map[string][]uint16)
	for _, text := range origins {
		if text == auto || text == sites || text == none {
			errs = append(errs, fmt.Errorf("reading origins '%s': must stand alone", text))
			continue
		}
		o, err := parseOrigin(text)
		switch {
		case err != nil:
			errs = append(errs, err)
		case slices.Contains(ch.ports[o.name], o.port):
			errs = append(errs, fmt.Errorf("reading origin '%s': must be listed only once, and is before as '%s'", text, o))
		default:
			if ch.ports[o.name] == nil {
				names = append(names, o.name)
			}
			ch.ports[o.name] = append(ch.ports[o.name], o.port)
		}
	}
	return names, errors.Join(errs...)
}

// of returns the ports that origins of a name have, on a connection to a port.
func (ch *choice) of(name string, port uint16) []uint16 {
	if ch.naming == authority.Listed {
		return ch.ports[name]
	}
	return []uint16{port}
}

// origins returns what goes into the frame, and some of what would too if there
// were room. The name and port of the connection itself are left out: they are in
// a client's origin set from the start (RFC 8336 section 2.3).
func (ch *choice) origins(sni string, port uint16, names []string) (in, cut []origin) {
	for _, name := range names {
		for _, p := range ch.of(name, port) {
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
	return portOf(local)
}

// What keeps an origin out of a frame, besides [authority.Absence].
const (
	overLimit = "there are more origins than max_origins"
	noPort    = "the listener has no port; set public_port"
	noFrame   = "no frame is sent: all that the certificate covers is accepted here, and a frame could not name all of it"
)

// A telling is what a connection is told of.
type telling struct {
	sni     string // canonical, "" where there is none
	frame   bool   // whether there is a frame at all
	in, cut []origin
	refuses bool // something that the certificate covers is refused
	set     *authority.OriginSet
}

// tell finds what a new connection with that SNI, canonical or "", is told of.
//
// No frame goes out where it could only take away: clients may use a connection for
// whatever its certificate covers, until a frame says otherwise (RFC 8336 appendix B).
// So where nothing of that is refused, a set that the server made by itself is sent
// only if it has all of it. What the operator chose is sent in any case.
func (l *ListenerWrapper) tell(sni string, port uint16) (t telling) {
	if l.choice.none {
		return telling{sni: sni, frame: true, set: new(authority.OriginSet)}
	}
	t.sni, t.set = sni, l.sets.Find(sni)
	names := t.set.Names
	if port == 0 && l.choice.naming != authority.Listed {
		names = nil
	}
	t.in, t.cut = l.choice.origins(sni, port, names)
	if l.choice.naming != authority.BySpelling || sni == "" || !t.set.Known() {
		t.frame = true
		return t
	}
	t.refuses = l.sets.Refuses(sni)
	t.frame = t.refuses || len(t.cut) == 0 && len(names) == len(t.set.Names) && t.set.NamesAll(sni)
	return t
}

// originsFor returns what a new connection is told of, and whether it is told at all.
func (l *ListenerWrapper) originsFor(serverName string, local net.Addr) (t telling) {
	// A server name that is invalid selected a policy and a certificate in
	// ways that no lookup can follow: nothing is said to be right for it.
	sni, err := hostname.ParseSNI(serverName)
	if err != nil {
		sni = ""
	}
	port := l.choice.port(local)
	t = l.tell(sni, port)
	l.logTelling(serverName, sni, port, t)
	return t
}

// frames returns the ORIGIN frames for a new HTTP/2 connection, none if it gets none.
func (l *ListenerWrapper) frames(serverName string, local net.Addr) (out frames) {
	t := l.originsFor(serverName, local)
	if t.frame {
		out = encode(t.in)
	}
	out.cut = len(t.cut) > 0
	return out
}

// logTelling logs what is left out.
func (l *ListenerWrapper) logTelling(serverName, sni string, port uint16, t telling) {
	if port == 0 && l.choice.naming != authority.Listed {
		leftOut(l, noPort, zapcore.WarnLevel, serverName, t.set.Names)
	}
	// What is automatic leaves out what is configured to be apart; what the
	// operator listed was meant to be used.
	level := zapcore.DebugLevel
	if l.choice.naming == authority.Listed {
		level = zapcore.WarnLevel
	}
	if sni != "" { // without one, no name was judged
		for reason, names := range t.set.Absent {
			leftOut(l, authority.Absence(reason).String(), level, serverName, names)
		}
	}
	if len(t.cut) > 0 {
		leftOut(l, overLimit, zapcore.WarnLevel, serverName, t.cut)
	}
	if t.refuses {
		l.logWithheld(serverName, sni)
	}
}

// mostLooks bounds how often it is counted what frames withhold. Counting takes a look
// at every name under a certificate's wildcard.
const mostLooks = 50

// logWithheld says once how many names could be advertised that no certificate tells of.
func (l *ListenerWrapper) logWithheld(serverName, sni string) {
	if _, before := l.logged.Load(authority.Withheld); before || l.looks.Add(1) > mostLooks {
		return
	}
	n := l.sets.Withheld(sni)
	if n == 0 {
		return
	}
	if _, before := l.logged.LoadOrStore(authority.Withheld, true); before {
		return
	}
	l.logger.Info("the ORIGIN frame withholds names that would be accepted on the connection: the certificate covers them by a wildcard only, "+
		"so strangers would learn them; 'origins sites' advertises them",
		zap.Int("names", n),
		zap.String("sni", serverName))
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
