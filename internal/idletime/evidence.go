package idletime

import (
	"slices"
	"time"
)

const (
	// enoughSeen is how many connections must have been seen open at an age
	// before a request that cannot be replayed takes one of that age.
	enoughSeen = 5

	// openedApart is how far apart connections must have been opened to count
	// as two.
	openedApart = time.Millisecond

	// maxSightings bounds the sightings remembered.
	maxSightings = 16
)

// A Proof says what shows that a connection is open.
type Proof uint8

const (
	// Silence shows nothing: the upstream has not closed the connection, but a
	// path that lost it without a word looks the same.
	Silence Proof = iota
	// LivePath is an acknowledgement of the peer's, lately, and no unanswered
	// probe (TCP_INFO). Unix sockets always have it.
	LivePath
	// Answered is a response to a request that was sent after the idle time.
	Answered
)

// A Sighting is the observation that a connection was open.
type Sighting struct {
	At     time.Time
	Idle   time.Duration // how long it had been idle
	Opened time.Time     // when it was opened, which tells connections apart
	Proof  Proof
}

// evidence is the ages at which connections were seen open. While nobody knows K,
// it shows how long the upstream keeps connections at least.
type evidence struct {
	seen []Sighting // one for each time of opening, the largest age lately
}

// add notes a sighting.
func (e *evidence) add(s Sighting) {
	if e.seen == nil {
		e.seen = make([]Sighting, 0, maxSightings)
	}
	for i := range e.seen {
		if old := &e.seen[i]; s.Opened.Sub(old.Opened).Abs() < openedApart {
			if s.Idle >= old.Idle || s.At.Sub(old.At) >= lately {
				*old = s
			}
			return
		}
	}
	if len(e.seen) < maxSightings {
		e.seen = append(e.seen, s)
		return
	}
	least := 0
	for i, old := range e.seen {
		if s.At.Sub(old.At) >= lately {
			least = i
			break
		}
		if old.Idle < e.seen[least].Idle {
			least = i
		}
	}
	if old := e.seen[least]; s.At.Sub(old.At) >= lately || s.Idle > old.Idle {
		e.seen[least] = s
	}
}

// retract takes everything back if a close at that age contradicts any of it.
func (e *evidence) retract(closed time.Duration) {
	if slices.ContainsFunc(e.seen, func(s Sighting) bool { return s.Idle > closed }) {
		e.seen = e.seen[:0]
	}
}

// age returns the largest age at which enough connections were seen open lately, or 0.
func (e *evidence) age(now time.Time) time.Duration {
	var largest [enoughSeen]time.Duration // descending
	for _, s := range e.seen {
		idle := s.Idle
		if now.Sub(s.At) >= lately {
			continue
		}
		for i := range largest {
			if idle > largest[i] {
				idle, largest[i] = largest[i], idle
			}
		}
	}
	return largest[enoughSeen-1]
}
