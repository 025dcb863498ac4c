package upstreampool

import (
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// A need is what a request asks of a connection.
type need struct {
	fresh       bool // dialed for this request, for a replay
	freshIfRoom bool // so, unless the pool is full
	replayable  bool // the request can be replayed, should the connection be dead
	bodyless    bool
}

// A grant is what a request gets: a connection with a reservation, or an error.
type grant struct {
	c      *conn
	reused bool           // it came out of the pool
	idle   time.Duration  // for how long it was idle
	limit  idletime.Limit // what its limit was, if reused
	err    error
}

// A waiter is a request that waits for a connection, in the order of arrival.
type waiter struct {
	need       need
	grant      chan grant // buffered: granting never blocks
	next, prev *waiter
	queued     bool
}

// queue is a FIFO of waiters that can leave from anywhere.
type queue struct {
	first, last *waiter
	n           int
}

func (q *queue) push(w *waiter) {
	w.prev, w.queued = q.last, true
	if q.last != nil {
		q.last.next = w
	} else {
		q.first = w
	}
	q.last = w
	q.n++
}

// remove takes w out of the queue and reports whether it was in it.
func (q *queue) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.last = w.prev
	}
	w.next, w.prev, w.queued = nil, nil, false
	q.n--
	return true
}
