// Package socket looks into TCP sockets: what the kernel knows of a connection
// that has nothing to read. Silence is not life. A path that drops everything
// looks like a peer that has nothing to say, and only unanswered packets tell the
// two apart.
package socket

import "time"

// An Info is what the kernel knows of the other end of a TCP connection.
type Info struct {
	// Unacked is how many packets were sent that the peer has not acknowledged.
	Unacked int
	// Retransmits is how often the oldest of them was sent again.
	Retransmits int
	// Backoff is how often the time to the next attempt was doubled since the peer
	// last answered.
	Backoff int
	// Probes is how many probes the peer has not answered: of keep-alive, or of a
	// window that it closed.
	Probes int
	// LastAck is how long ago the peer last acknowledged anything, probes included.
	LastAck time.Duration
}

// Alive tells whether the peer has shown lately that it is there, where idle
// connections are probed at an interval: it answered within two of them, and owes
// no answer. Without probes (an interval of zero or less) silence shows nothing.
func (i Info) Alive(interval time.Duration) bool {
	return interval > 0 && i.LastAck < 2*interval && i.Probes == 0 && i.Unacked == 0
}

// Unanswered returns for how long the peer has owed an acknowledgement of what was
// sent, which was waiting ago; zero if it owes none. Its last one may be older than
// that: nothing is acknowledged on an idle connection. A peer that reads slowly
// owes nothing: it acknowledges what arrives, and the probes of a window that it
// closed.
func (i Info) Unanswered(waiting time.Duration) time.Duration {
	if i.Unacked == 0 {
		return 0
	}
	return min(i.LastAck, waiting)
}

// Lost tells whether what was sent, waiting ago, seems to get lost: it was sent
// again, and the peer has not answered for longer than a second.
func (i Info) Lost(waiting time.Duration) bool {
	return i.Backoff > 0 && i.Unanswered(waiting) > time.Second
}
