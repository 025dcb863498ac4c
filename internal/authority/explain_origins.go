package authority

import (
	"fmt"
	"slices"
)

// An OriginExplainer tells clients of origins.
type OriginExplainer interface {
	// ExplainOrigins says what a new connection with that SNI, as sent, is told,
	// and if leftOut, what it is not: one answer for each port that the server's
	// listeners with TLS have.
	ExplainOrigins(sni string, leftOut bool) []OriginExplanation
}

// An OriginExplanation is what a connection is told, and what it is not.
type OriginExplanation struct {
	Server string `json:"server"`
	SNI    string `json:"sni"`
	// The addresses with TLS for which the answer is, as the listeners have them, and
	// before they are open as configured.
	Listeners []string `json:"listeners"`
	// The port in origins that name none of their own: that of the listeners, or
	// public_port. 0 is none, as on a unix socket. Behind a PROXY protocol header it is
	// the port announced there.
	Port uint16 `json:"port"`
	// Whether an ORIGIN frame is sent at all; it may be empty.
	Frame bool `json:"frame"`
	// Whether an ORIGIN frame is sent on HTTP/3 as well, with the first 20 of the
	// origins: those of the same registrable domain come first there.
	HTTP3 bool `json:"http3"`
	// What keeps it from HTTP/3. "" if nothing does.
	WithoutHTTP3 string `json:"without_http3,omitempty"`
	// How the origins are chosen.
	Why string `json:"why"`
	// The origins in the ORIGIN frame, besides that of the SNI itself.
	Origins []string `json:"origins"`
	// The origins that are left out, and why: those listed, or else one for each
	// exact name of the sites and of the certificate. At most 1000. Nil if not
	// asked for.
	LeftOut []LeftOut `json:"left_out,omitzero"`
	// How many are left out, by reason. Nil if not asked for.
	LeftOutCounts map[string]int `json:"left_out_counts,omitzero"`
}

// LeftOut is an origin that a connection is not told of.
type LeftOut struct {
	Origin string `json:"origin"`
	Why    string `json:"why"`
}

// mostLeftOut is how many origins an explanation lists.
const mostLeftOut = 1000

// LeaveOut adds an origin that is left out, in words only if there is room for it.
func (e *OriginExplanation) LeaveOut(origin fmt.Stringer, why string) {
	e.LeftOutCounts[why]++
	if len(e.LeftOut) < mostLeftOut {
		e.LeftOut = append(e.LeftOut, LeftOut{origin.String(), why})
	}
}

// SendsOrigins tells whether the server sends ORIGIN frames.
func (s *Server) SendsOrigins() bool { return s.origins != nil }

// ExplainOrigins says what a new connection with that SNI, as sent, is told by
// ORIGIN frames, and if leftOut, what it is not. The server must send some.
func (s *Server) ExplainOrigins(sni string, leftOut bool) []OriginExplanation {
	answers := s.origins.ExplainOrigins(sni, leftOut)
	for i := range answers {
		answers[i].Server, answers[i].SNI = s.Name(), sni
	}
	return answers
}

// Names returns the exact names in the host matchers of the server's sites, in
// alphabetical order. It is not to be changed.
func (s *Server) Names() []string { return s.Snapshot().hosts.all }

// absence says why a client is not told of a host, by the rule of the server's own
// origin sets, and by the default one where it has none.
func (s *Server) absence(sni, host string) Absence {
	naming := BySpelling
	if s.sets != nil {
		naming = s.sets.naming
		if _, ok := s.sets.listed[host]; naming == Listed && !ok {
			return NotListed
		}
	}
	snap := s.Snapshot()
	return snap.absence(naming, sni, host, snap.presented(sni))
}

// presented returns what can be presented for an SNI: without one, nothing is known.
func (s *Snapshot) presented(sni string) *presented {
	if sni == "" {
		return new(presented)
	}
	return s.certificates.present(sni)
}

// Judge calls f with every name that the origin set for an SNI, canonical or "",
// could have, and says why it has or has not: for each of the list, or if there is
// none for each name of the certificate and of the sites, in alphabetical order.
func (os *OriginSets) Judge(sni string, f func(name string, why Absence)) {
	snap := os.server.Snapshot()
	shown := snap.presented(sni)
	names := os.list
	if os.naming != Listed {
		names = slices.Clone(snap.hosts.all)
		for _, c := range shown.covers {
			names = append(names, c.spelled...)
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	for _, name := range names {
		f(name, snap.absence(os.naming, sni, name, shown))
	}
}
