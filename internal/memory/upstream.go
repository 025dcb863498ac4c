// Package memory is what is known about one upstream apart from its connections: its
// keep-alive timeouts, its protocol, how many streams it allows, and which idle
// connections are suspicious. It outlives the connections, and pools may share it.
//
// It ends with the process. Package remember has what outlives that.
package memory

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

// An Upstream is what is known about one. Its methods may be called at the same time.
type Upstream struct {
	H1, H2  *idletime.Learner // servers have separate timeouts for the two
	Streams streams.Known

	protocol atomic.Int32              // of the last connection that could choose
	suspects atomic.Pointer[time.Time] // what is idle since then, or for longer, is suspicious
}

// Protocol returns what the last connection spoke that could choose.
func (u *Upstream) Protocol() Protocol { return Protocol(u.protocol.Load()) }

// Chose notes what a connection speaks that could choose.
func (u *Upstream) Chose(h2 bool) {
	spoken := HTTP1
	if h2 {
		spoken = HTTP2
	}
	u.protocol.Store(int32(spoken))
}

// Learner returns the learned state of one protocol.
func (u *Upstream) Learner(h2 bool) *idletime.Learner {
	if h2 {
		return u.H2
	}
	return u.H1
}

// Suspect makes connections suspicious that have been idle since a time, or for longer.
func (u *Upstream) Suspect(before time.Time) {
	for old := u.suspects.Load(); old == nil || old.Before(before); old = u.suspects.Load() {
		if u.suspects.CompareAndSwap(old, &before) {
			return
		}
	}
}

// Suspicious tells whether a connection that is idle since then is suspicious.
func (u *Upstream) Suspicious(since time.Time) bool {
	before := u.suspects.Load()
	return before != nil && !since.After(*before)
}
