package connpool

import "time"

// mostAges is how many ages a snapshot lists.
const mostAges = 100

// A Snapshot is what a pool holds at a moment.
type Snapshot struct {
	// Connections by state: idle, busy, draining, sensor, dialing, upgraded, and
	// pinned, which are idle for one owner only. One that has carried no request
	// counts as idle, one on its way back as busy.
	Connections map[string]int
	// For how long connections have been idle, youngest first, at most 100.
	IdleAges []time.Duration
	// Requests that wait for a connection.
	Waiting int
}

// shown are the states that a snapshot tells apart, but for idle ones.
var shown = [...]state{busy, draining, sensor, dialing, upgraded}

const pinned = "pinned"

// NoConnections is the snapshot of a pool that holds nothing.
func NoConnections() Snapshot {
	s := Snapshot{Connections: map[string]int{idle.String(): 0, pinned: 0}}
	for _, st := range shown {
		s.Connections[st.String()] = 0
	}
	return s
}

// Snapshot returns what the pool holds.
func (p *Pool) Snapshot() Snapshot {
	p.lock()
	defer p.unlock()
	now := time.Now()
	s := NoConnections()
	s.Waiting = p.queue.Len()
	for _, own := range p.pins {
		s.Waiting += own.waiters.Len()
	}
	for _, st := range shown {
		s.Connections[st.String()] = p.inLocked(st)
	}
	s.Connections[idle.String()] = p.spareLocked()
	s.Connections[pinned] = p.lists[listPinned].Len()
	for _, st := range [...]state{idle, fresh} {
		for c := p.lists[st].Last(); c != nil && len(s.IdleAges) < mostAges; c = c.place.Prev() {
			s.IdleAges = append(s.IdleAges, c.ageLocked(now))
		}
	}
	return s
}
