package idletime

import "time"

// A sensorGate says when a connection is set aside as a sensor.
type sensorGate struct {
	out       bool // there is a sensor
	startedAt time.Time
}

// want tells whether a sensor would find out something that is worth it; sure says that
// connections which end at once do so by themselves.
func (g *sensorGate) want(now time.Time, limit Limit, s *closes, sure bool) bool {
	switch {
	case g.out:
		return false
	case limit.Bound == BoundAtOnce:
		return !sure || now.Sub(g.startedAt) >= endsLook
	case limit.Bound == BoundTooShort:
		return limit.Source != SourceAnnounced && now.Sub(g.startedAt) >= lately
	case limit.Source == SourceAssumed, limit.Source == SourceRemembered, s.early.idle > 0:
		return true
	case limit.Source == SourceLearned:
		return len(s.witnesses) > 0 || s.outlivers > 0 || now.Sub(s.confirmedAt) >= lately
	}
	return false
}
