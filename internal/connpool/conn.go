package connpool

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/linked"
	"github.com/caddy-connreuse/connreuse/internal/owner"
	"github.com/caddy-connreuse/connreuse/internal/streams"
)

// A conn is one connection of a pool. What is not in one of the structs below is
// set before the connection is fresh, or has a lock or atomics of its own.
type conn struct {
	pool    *Pool
	cc      *http.ClientConn
	learner *idletime.Learner
	h2      bool
	rested  atomic.Int32  // the largest idle age after which it answered, in milliseconds
	dialed  time.Time     // when its dial began
	opened  time.Time     // when it ended
	life    time.Duration // max_lifetime with its jitter; 0: unlimited

	state    atomic.Uint32 // see moveLocked
	answered atomic.Bool   // a response has come on it

	inGroup linked.Node[conn] // in the list of all idle ones, which guards it
	net     netConn
	streams streams.Streams // HTTP/2
	byPool
}

// byPool is guarded by the pool's lock.
type byPool struct {
	place     linked.Node[conn] // in the list of its state
	leases    int               // requests it carries
	requests  int               // requests it has carried
	takenAt   time.Time
	idleAt    time.Time
	announced idletime.Optional  // by a Keep-Alive field of this connection
	reason    CloseReason        // why we close it
	limit     idletime.Limit     // of its idle age, when that was last looked at
	seenOpen  time.Time          // when the learner was last told so
	idledFor  time.Duration      // when it was last taken, as idle
	cancelers map[*canceler]bool // of requests that can be canceled by themselves
	dialedFor *waiter
	owner     *Owner       // whose requests alone it carries; nil: anybody's
	login     *owner.Login // nil: it is not pinned
	suspect   bool
	left      bool // its address was given up
	untried   bool // its probe did not wait for it: others that can be repeated may
	lost      bool // its requests seem to get lost
	counted   bool // it was told whether it ended at once
}

func (c *conn) at() state       { return state(c.state.Load()) }
func (c *conn) is(s state) bool { return c.at() == s }

// idles tells whether the connection waits in the pool.
func (c *conn) idles() bool { return c.is(idle) || c.is(fresh) }

// ageLocked returns for how long the connection has been idle.
func (c *conn) ageLocked(now time.Time) time.Duration { return elapsed(c.idleAt, now) }

// askLimitLocked finds out the connection's idle limit.
func (c *conn) askLimitLocked(now time.Time) {
	if c.requests == 0 {
		c.limit = c.learner.UnusedLimit(now)
	} else {
		c.limit = c.learner.Limit(now, c.announced)
	}
}

// seen returns the observation that the connection was open when it had been idle
// for age.
func (c *conn) seen(now time.Time, age time.Duration, p idletime.Proof) idletime.Sighting {
	return idletime.Sighting{At: now, Idle: age, Opened: c.opened, Proof: p}
}

// ended returns the observation that the upstream closed the connection when it had been
// idle for age, and that it was last seen open at another one.
func (c *conn) ended(at time.Time, age, open time.Duration) idletime.Close {
	answered := time.Duration(c.rested.Load()) * time.Millisecond
	return idletime.Close{At: at, Idle: age, Open: open, Opened: c.opened, Answered: answered}
}

// sightEvery is how often the learner is told that a connection is open.
const sightEvery = 250 * time.Millisecond

// proof looks whether the path to the upstream is alive, as far as that can be told:
// one that drops everything looks like an upstream that has nothing to say. Idle
// connections are probed at an interval.
func (c *conn) proof(interval time.Duration) idletime.Proof {
	if c.net.PathAlive(interval) {
		return idletime.LivePath
	}
	return idletime.Silence
}

// sightLocked tells the learner that the connection is open at that age, if it was of no
// use to a request because nobody knows how old it may be.
func (c *conn) sightLocked(now time.Time, age time.Duration) {
	if now.Sub(c.seenOpen) >= sightEvery {
		c.seenOpen = now
		c.pool.afterLocked(func() { c.learner.SawOpen(c.seen(now, age, c.proof(c.pool.cfg.ProbeInterval))) })
	}
}

// countEndLocked tells the learner, once, whether a connection that could be reused ended
// right after its first response.
func (c *conn) countEndLocked(now time.Time, atOnce bool) {
	switch {
	case c.counted:
		return
	case atOnce:
		c.learner.EndedAtOnce(now, c.requests > 1)
	default:
		c.learner.Lasted(now)
	}
	c.counted = true
}

// wornLocked tells whether the connection may carry no further request, and why.
func (c *conn) wornLocked(now time.Time) (CloseReason, bool) {
	cfg := c.pool.cfg
	switch {
	case cfg.MaxRequests > 0 && c.requests >= cfg.MaxRequests && !cfg.Reuse:
		return CloseRequested, true
	case cfg.MaxRequests > 0 && c.requests >= cfg.MaxRequests:
		return CloseMaxRequests, true
	case c.life > 0 && elapsed(c.opened, now) >= c.life:
		return CloseMaxLifetime, true
	case c.left:
		return CloseDNS, true
	case c.pool.group.retired.Load() && c.owner == nil: // or the owner could not log in any more
		return CloseDrained, true
	case c.outlivedLocked(now):
		return ClosePinned, true
	}
	return "", false
}

// reserveLocked makes sure that one request can be sent without waiting. For HTTP/2 the
// pool counts by itself, see package streams.
func (c *conn) reserveLocked() bool {
	if !c.h2 {
		return c.cc.Reserve() == nil
	}
	return c.streams.Room(c.leases) > 0
}

// complete tells whether an HTTP/1 connection is done with its response.
func (c *conn) complete() bool {
	return c.is(busy) && c.cc.Available() == 1
}

// stateChanged is the state hook of an HTTP/2 connection, whose streams may have become
// free. net/http calls it with locks held and in the way of requests, so it only notes
// things.
func (c *conn) stateChanged(*http.ClientConn) {
	c.streams.Ended(false)
	c.streams.NoteLimit()
	c.serveWaiters()
}

// serveWaiters runs when those that wait may be served, since a stream may have become
// free.
func (c *conn) serveWaiters() {
	if c.pool.waiters.Load() > 0 {
		go c.pool.offer(c)
	}
}

// lingers tells whether net/http still counts streams whose responses were read. Such a
// connection may refuse a request. The state hook tells when that is over.
func (c *conn) lingers() bool { return c.h2 && c.cc.InFlight() > 0 }
