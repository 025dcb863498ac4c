package idletime

import (
	"math"
	"time"
)

const (
	// raceInterval is how often races can raise the margin.
	raceInterval = 10 * time.Second
	maxRaces     = 1024
)

// margins is what decides how far below the upstream's timeout to stay.
type margins struct {
	connect  leastOf       // round trips, by TCP
	response leastOf       // round trips and the upstream's work, by requests
	usual    time.Duration // a smoothed mean of the latter

	raised    float64 // factor by which races raised the margin; below 1 means 1
	racedAt   time.Time
	decayedAt time.Time
}

// responded notes the time a response took.
func (m *margins) responded(d time.Duration) {
	m.response.add(d)
	if m.usual == 0 {
		m.usual = d
	}
	m.usual += (d - m.usual) / 8
}

// raced raises the margin: a request met a connection which was being closed.
func (m *margins) raced(now time.Time) {
	if !m.racedAt.IsZero() && now.Sub(m.racedAt) < raceInterval {
		return
	}
	m.raised = min(2*max(m.raised, 1), maxRaces)
	m.racedAt, m.decayedAt = now, now
}

// advance lets a raised margin shrink, and old round trips be forgotten.
func (m *margins) advance(now time.Time) {
	m.connect.advance(now)
	m.response.advance(now)
	if m.raised <= 1 {
		return
	}
	if periods := now.Sub(m.decayedAt) / lately; periods > 0 {
		m.raised *= math.Pow(0.9, float64(periods))
		m.decayedAt = m.decayedAt.Add(periods * lately)
	}
}

// leastOf is the least of the durations added in the last 10 to 20 minutes.
type leastOf struct {
	since            time.Time
	current, earlier Optional // of this period, and of the one before
}

// advance begins another period when this one is over.
func (m *leastOf) advance(now time.Time) {
	age := now.Sub(m.since)
	if age < lately {
		return
	}
	m.earlier = Optional{}
	if age < 2*lately {
		m.earlier = m.current
	}
	m.current, m.since = Optional{}, now
}

func (m *leastOf) add(d time.Duration) { m.current = m.current.least(Known(d)) }

func (m *leastOf) value() Optional { return m.current.least(m.earlier) }
