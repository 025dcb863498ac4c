// Package socket looks into TCP sockets: what the kernel knows of a connection
// that has nothing to read. Silence is not life. A path that drops everything
// looks like a peer that has nothing to say, and only unanswered packets tell the
// two apart.
package socket

import (
	"sync"
	"time"
)

// An Info is what the kernel knows of the other end of a TCP connection.
type Info struct {
	// Unacked is how many packets were sent that the peer has not acknowledged.
	Unacked int
	// Acked is how many bytes it has acknowledged.
	Acked uint64
	// Unsent is how many bytes wait to be sent.
	Unsent int
	// Window is how many bytes the peer takes now; zero, too, where the kernel does not
	// tell (Linux before 5.4).
	Window int
	// Backoff is how often the time to the next attempt was doubled since the peer
	// last answered.
	Backoff int
	// Probes is how many probes the peer has not answered: of keep-alive, or of a
	// window that it closed.
	Probes int
	// LastAck is how long ago the peer last acknowledged anything, probes included.
	LastAck time.Duration
	// LastSent is how long ago data was last sent, for the first time or again.
	LastSent time.Duration
}

// Alive tells whether the peer has shown lately that it is there, where idle
// connections are probed at an interval: it answered within two of them, and owes
// no answer. Without probes (an interval of zero or less) silence shows nothing.
func (i Info) Alive(interval time.Duration) bool {
	return interval > 0 && i.LastAck < 2*interval && i.Probes == 0 && i.Unacked == 0
}

// owes tells whether the peer has yet to acknowledge something. It is tempting to go by
// what is unacknowledged alone. But a peer that reads nothing closes its window, and
// what it refused then is sent again and again, at intervals that grow to minutes. It
// answers each time, so the last word is its own. Probes of keep-alive, which are sent
// where nothing is under way, do not count: a quiet connection may outlive an outage.
// A single probe of a closed window does not either: Linux answers two a second at most.
func (i Info) owes() bool {
	return i.Unacked > 0 && (i.Window > 0 || i.LastSent < i.LastAck) || i.Probes > 1 && i.Unsent > 0
}

// answered tells whether the peer has answered since a look, some time ago, that showed
// how many bytes it had acknowledged. Where its window is open, only an acknowledgement
// is an answer: packets may get lost in one direction alone.
func (i Info) answered(since time.Duration, acked uint64) bool {
	return i.Acked != acked || i.Window == 0 && since > i.LastAck+tick
}

// A Watch is kept of one socket. Its methods may be called at the same time.
type Watch struct {
	mu    sync.Mutex
	since time.Time // from when on the peer is known to owe an answer; zero: it owes none
	acked uint64    // by the last look
}

const (
	// tick is how exact the times of an Info are.
	tick = 20 * time.Millisecond

	// handshakeAcked is what a peer has acknowledged that has acknowledged nothing but
	// the handshake.
	handshakeAcked = 1

	// mayQueue is for how long such a peer may be too busy to accept the connection.
	// While the queue of its listener is full, Linux answers nothing, though to us the
	// handshake was complete. It gives up after a minute, and resets the connection.
	mayQueue = time.Minute
)

// Look takes note of what the kernel says now. A request was sent at the time given,
// if that is not zero: if nothing was acknowledged since, the peer owes an answer
// from then on. Otherwise only looks tell for how long it does.
func (w *Watch) Look(now time.Time, i Info, sent time.Time) Silence {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !i.owes() {
		w.since = time.Time{}
		return Silence{}
	}
	if w.since.IsZero() || i.answered(now.Sub(w.since), w.acked) {
		w.since = now
	}
	w.acked = i.Acked
	if !sent.IsZero() && sent.Before(w.since) && now.Sub(sent)+tick <= i.LastAck {
		w.since = sent
	}
	s := Silence{For: now.Sub(w.since), Repeated: i.Backoff > 0, All: !w.since.After(sent)}
	if i.Acked == handshakeAcked {
		s.For = max(0, s.For-mayQueue)
	}
	return s
}

// A Silence is what a peer keeps that owes an answer. The zero value is none.
type Silence struct {
	For      time.Duration
	Repeated bool // what it does not answer was sent again, after a timeout
	All      bool // it has acknowledged nothing since the request was sent
}

const (
	overdueAfter = 250 * time.Millisecond
	lostAfter    = time.Second
)

// Overdue tells whether an answer is: the connection had better not be used for more.
func (s Silence) Overdue() bool { return s.Repeated && s.For >= overdueAfter }

// Lost tells whether what was sent seems to get lost.
func (s Silence) Lost() bool { return s.Repeated && s.For > lostAfter }
