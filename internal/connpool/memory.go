package connpool

import (
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// A Protocol is what the connections of a pool speak.
type Protocol int32

const (
	Negotiated Protocol = iota // not known before the first connection
	HTTP1
	HTTP2
)

// A Memory is what is known about one upstream apart from its connections. It
// outlives them, and pools may share it.
type Memory struct {
	H1, H2 *idletime.Learner // servers have separate timeouts for the two

	protocol atomic.Int32              // of the last connection that could choose
	streams  atomic.Int32              // how many streams the last HTTP/2 connection allowed; zero: not known
	usable   average                   // the time from dial to SETTINGS
	suspects atomic.Pointer[time.Time] // connections that are idle since then, or for longer
}

// Protocol returns what the last connection spoke that could choose.
func (m *Memory) Protocol() Protocol { return Protocol(m.protocol.Load()) }

// Learner returns the learned state of one protocol.
func (m *Memory) Learner(h2 bool) *idletime.Learner {
	if h2 {
		return m.H2
	}
	return m.H1
}

// allows notes how many streams a connection allows at a time.
func (m *Memory) allows(streams int) {
	if n := int32(min(streams, 1<<20)); n > 0 && n != m.streams.Load() {
		m.streams.Store(n)
	}
}

// suspect makes connections suspect that have been idle since before a time.
func (m *Memory) suspect(before time.Time) {
	if old := m.suspects.Load(); old == nil || old.Before(before) {
		m.suspects.Store(&before)
	}
}

// suspicious tells whether a connection that is idle since then is suspect.
func (m *Memory) suspicious(since time.Time) bool {
	before := m.suspects.Load()
	return before != nil && !since.After(*before)
}

// An average of durations counts the last one for a quarter. Two of them noted at
// the same moment may count as one.
type average struct{ d atomic.Int64 }

func (a *average) add(d time.Duration) {
	if old := a.d.Load(); old > 0 {
		d = time.Duration(old) + (d-time.Duration(old))/4
	}
	a.d.Store(max(int64(d), 1))
}

// value returns the average, zero while nothing is known.
func (a *average) value() time.Duration { return time.Duration(a.d.Load()) }
