package connpool

import (
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/streams"
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

	protocol atomic.Int32 // of the last connection that could choose
	streams  streams.Known
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
