package origin

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// ExplainOrigins implements [authority.OriginExplainer]. Listeners whose connections
// are told the same share one answer.
func (l *ListenerWrapper) ExplainOrigins(serverName string, leftOut bool) (answers []authority.OriginExplanation) {
	for _, p := range l.board.withTLS() {
		port := cmp.Or(l.choice.public, p.port)
		at := slices.IndexFunc(answers, func(e authority.OriginExplanation) bool { return e.Port == port })
		if at < 0 {
			at = len(answers)
			answers = append(answers, l.explain(serverName, port, leftOut))
		}
		if e := &answers[at]; !p.h2 { // all of a server's listeners have it, or none
			e.Frame = false
			if !e.HTTP3 {
				e.Origins, e.Why = []string{}, "no frame is sent: the listener has no HTTP/2"
			}
		}
		answers[at].Listeners = append(answers[at].Listeners, p.address)
	}
	return answers
}

// explain says what connections to a port are told.
func (l *ListenerWrapper) explain(serverName string, port uint16, leftOut bool) authority.OriginExplanation {
	e := authority.OriginExplanation{Port: port, Origins: []string{}}
	e.WithoutHTTP3 = l.board.withoutHTTP3()
	sni, err := hostname.ParseSNI(serverName)
	if err != nil {
		sni = ""
	}
	t := l.tell(sni, port)
	e.Frame, e.Why = t.frame, l.why(t, err)
	e.HTTP3 = t.frame && e.WithoutHTTP3 == ""
	sent := make(map[origin]bool)
	if t.frame {
		for _, o := range t.in {
			sent[o] = true
			e.Origins = append(e.Origins, o.String())
		}
	}
	if leftOut {
		e.LeftOut, e.LeftOutCounts = []authority.LeftOut{}, make(map[string]int)
		if !l.choice.none && sni != "" {
			l.explainLeftOut(&e, t, sent)
		}
	}
	return e
}

// explainLeftOut adds what connections are not told, and why; sent is what they are.
func (l *ListenerWrapper) explainLeftOut(e *authority.OriginExplanation, t telling, sent map[origin]bool) {
	sni, port := t.sni, e.Port
	l.sets.Judge(sni, func(name string, why authority.Absence) {
		for _, p := range l.choice.of(name, port) {
			switch o := (origin{name, p}); {
			case sent[o] || name == sni && p == port:
			case why != authority.Advertised:
				e.LeaveOut(o, why.String())
			case p == 0:
				e.LeaveOut(origin{name, httpsPort}, noPort)
			case !t.frame:
				e.LeaveOut(o, noFrame)
			default:
				e.LeaveOut(o, overLimit)
			}
		}
	})
}

// why says how the origins are chosen; err is about the server name.
func (l *ListenerWrapper) why(t telling, err error) string {
	switch {
	case l.choice.none:
		return "origins none: the frame is empty, only this host belongs on the connection"
	case err != nil:
		return fmt.Sprintf("the frame is empty: without a valid server name there is nothing to judge by: %v", err)
	case !t.frame:
		return "origins auto: " + noFrame
	case l.choice.naming == authority.BySpelling:
		return "origins auto: every exact name of the sites that the certificate spells out and that belongs on the connection"
	case l.choice.naming == authority.BySites:
		return "origins sites: every exact name of the sites that the certificate covers and that belongs on the connection"
	default:
		return "the configured origins, as far as they belong on the connection"
	}
}
