package connpool

import (
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/linked"
)

// A Need is what a request asks of a connection.
type Need struct {
	Replayable bool // the request can be sent once more, should the connection be dead
	Bodyless   bool
	Freshness  Freshness
	// An active health check does not wait behind requests: in a full pool it gets
	// one connection beyond the limit.
	Probe bool
	// Whose request it is, if that is known. A connection that is pinned to an owner
	// carries no other's requests, and takes all of its owner's.
	Owner *Owner
	// The request authenticates its connection, which is pinned to the owner before
	// it is sent. There must be one.
	Bound bool
}

// Freshness says whether a connection will do that has carried requests.
type Freshness uint8

const (
	Any         Freshness = iota
	FreshIfRoom           // a fresh one, unless the pool is full
	Fresh                 // one that is opened while the request waits; those of HTTP/2 serve several
)

// A grant is what a request gets: a connection with a reservation, or an error.
type grant struct {
	First  bool // the connection has carried no request before
	Reused bool // it came out of the pool

	lookSocket bool // before it is used, to see whether its socket looks alive
	lookPath   bool // likewise, to see whether the upstream acknowledges what it was sent

	Idle        time.Duration   // for how long it was idle
	Limit       time.Duration   // what its idle limit was, if reused
	LimitSource idletime.Source // where that came from

	c   *conn
	nth int // which request of c it is
	err error
}

// ofLocked makes c the connection, which was in the pool and has been idle for age.
func (g *grant) ofLocked(c *conn, age time.Duration) {
	*g = grant{
		First: c.requests == 0, Reused: true, lookSocket: age >= lookAfter, lookPath: age >= longIdle,
		Idle: age, Limit: c.limit.Value, LimitSource: c.limit.Source, c: c, nth: c.requests + 1,
	}
}

// A waiter is a request that waits for a connection, in the order of arrival.
type waiter struct {
	need   Need
	pin    *pin       // that it is the founder of, or waits for
	grant  chan grant // buffered: granting never blocks
	since  time.Time
	dialed bool // a dial was started for it
	place  linked.Node[waiter]
}

// A queue is a list of waiters in the order in which they are served. They can leave
// from anywhere.
type queue struct {
	linked.List[waiter]
	probes   int // active health checks among them
	founders int // among them: each takes a connection of its own
}

func (q *queue) push(w *waiter) {
	q.Push(&w.place, w)
	q.count(w, 1)
}

// pushFront puts back a waiter whose connection turned out to be dead.
func (q *queue) pushFront(w *waiter) {
	q.PushFront(&w.place, w)
	q.count(w, 1)
}

// remove takes w out of the queue and reports whether it was in it.
func (q *queue) remove(w *waiter) bool {
	was := q.Remove(&w.place)
	if was {
		q.count(w, -1)
	}
	return was
}

func (q *queue) count(w *waiter, n int) {
	if w.need.Probe {
		q.probes += n
	}
	if w.pin != nil {
		q.founders += n
	}
}
