package connpool

import (
	"time"

	"github.com/caddy-connreuse/connreuse/internal/owner"
)

// NTLM and Negotiate authenticate a connection, not a request (RFC 4559 section 6):
// whoever sends the next request on it is taken for the same user. So such a
// connection is pinned to one owner before credentials travel on it, and carries no
// other's requests until it is closed. Those that wait for requests are in a list of
// their own, where nobody looks who has none.

// An Owner is whose requests share authenticated connections: a client connection.
// It has at most one connection in each pool.
type Owner = owner.Owner

// A pin is what an owner has in a pool: one connection. While there is none, the
// first of the owner's requests, the founder, waits for a dial. All others wait here
// and take part in no dial.
type pin struct {
	conn    *conn
	waiters queue
}

// Pins tells whether any owner has a pin.
func (p *Pool) Pins() bool { return p.pinned.Load() > 0 }

// setPinLocked gives an owner a pin, or takes it away.
func (p *Pool) setPinLocked(o *Owner, own *pin) {
	switch {
	case own == nil:
		delete(p.pins, o)
		o.LeftBy(p)
	case p.pins == nil:
		p.pins = map[*Owner]*pin{o: own}
		o.KeptBy(p)
	default:
		p.pins[o] = own
		o.KeptBy(p)
	}
	p.pinned.Store(int32(len(p.pins)))
}

// acquireOwnLocked is acquire for a request whose owner is known. If it returns
// no waiter and grants nothing, n says what is to be done: its Freshness is Fresh for a
// founder, and its Owner is nil where any connection will do.
func (p *Pool) acquireOwnLocked(now time.Time, n *Need, g *grant) *waiter {
	if own := p.pins[n.Owner]; own != nil && p.takeOwnLocked(own, now, *n, g) {
		return nil
	}
	own := p.pins[n.Owner] // it may have ended
	switch {
	case own != nil:
		p.waiters.Add(1)
		w := &waiter{need: *n, since: now, pin: own, grant: make(chan grant, 1)}
		own.waiters.push(w)
		p.serveOwnLocked(own, now) // a stream may have become free before we waited
		return w
	case n.Bound:
		n.Freshness = Fresh
	default:
		n.Owner = nil
	}
	return nil
}

// takeOwnLocked leases the connection of own, if it can take a request. One that will
// not be good enough for n is given up: there is only one.
func (p *Pool) takeOwnLocked(own *pin, now time.Time, n Need, g *grant) (ok bool) {
	c := own.conn
	switch {
	case c == nil:
	case c.idles():
		lingers := c.lingers()
		if n.Freshness != Fresh {
			ok = p.fitLocked(c, now) && p.tryIdleLocked(c, now, n, g)
		}
		if !ok && !lingers {
			p.closeLocked(c, ClosePinned)
		}
	case c.is(busy) && c.h2:
		if n.Freshness != Fresh {
			ok = p.tryStreamLocked(c, now, n, g)
		}
		if _, ended := c.streams.AllEndedAt(); !ok && c.is(busy) && (ended || n.Freshness == Fresh) {
			c.reason = ClosePinned
			p.moveLocked(c, draining)
		}
	}
	return ok
}

// inPinLocked tells whether w waits for the connection of its owner.
func (w *waiter) inPinLocked() bool { return w.pin != nil && w.place.In(&w.pin.waiters.List) }

// serveOwnLocked hands the connection of own to those that wait for it.
func (p *Pool) serveOwnLocked(own *pin, now time.Time) {
	for w := own.waiters.First(); w != nil; w = own.waiters.First() {
		var g grant
		if !p.takeOwnLocked(own, now, w.need, &g) {
			return // it is busy, or w is the founder of another one
		}
		own.waiters.remove(w)
		w.grant <- g
	}
}

// ownLocked makes c the connection of a pin.
func (p *Pool) ownLocked(c *conn, o *Owner, own *pin, now time.Time) {
	own.conn, c.login = c, &owner.Login{Began: now}
	p.setOwnerLocked(c, o)
}

// leaveLocked takes a waiter out of the queue that it is in, and tells whether it was
// in one. A founder without a connection has a successor.
func (p *Pool) leaveLocked(w *waiter) bool {
	own := w.pin
	if w.inPinLocked() {
		return own.waiters.remove(w)
	}
	if !p.queue.remove(w) {
		return false
	}
	if own != nil && own.conn == nil {
		p.succeedLocked(w.need.Owner, own)
	}
	return true
}

// succeedLocked makes the first that waits the founder. If nobody does, there is no
// pin any more.
func (p *Pool) succeedLocked(o *Owner, own *pin) {
	w := own.waiters.First()
	if w == nil {
		p.setPinLocked(o, nil)
		return
	}
	own.waiters.remove(w)
	w.need.Freshness = Fresh
	p.queue.pushFront(w)
	p.armLocked(time.Now()) // dials start when the pool is in order again
}

// unpinLocked runs when the connection of an owner takes no more requests. It stays
// the owner's.
func (p *Pool) unpinLocked(c *conn) {
	if own := p.pins[c.owner]; own != nil && own.conn == c {
		own.conn = nil
		p.succeedLocked(c.owner, own)
	}
}

// Pin gives the connection of a lease, after Done, to an owner who has none in this
// pool. It has carried no credentials, so nothing is wrong if it is somebody else's
// by now, or carries other requests: then it stays as it is.
func (l *Lease) Pin(o *Owner) {
	p, c := l.pool, l.c
	p.lock()
	defer p.unlock()
	alone := c.idles() || c.carries() && c.leases == 1 && !c.is(draining)
	if c.owner != nil || c.requests != l.nth || !alone || p.pins[o] != nil {
		return
	}
	now, own := time.Now(), new(pin)
	p.setPinLocked(o, own)
	p.ownLocked(c, o, own, now)
	if c.idles() && p.fitLocked(c, now) {
		p.watchIdleLocked(c, now)
	}
}

// Disown closes the connection of an owner that has ended, if it is idle. Otherwise
// that happens when it becomes idle, see [conn.outlivedLocked].
func (p *Pool) Disown(o *Owner) {
	p.lock()
	defer p.unlock()
	if own := p.pins[o]; own != nil && own.conn != nil && own.conn.idles() {
		p.closeLocked(own.conn, ClosePinned)
		p.tidyLocked(time.Now())
	}
}

// outlivedLocked tells whether c is pinned for nothing: its owner is gone, or has not sent
// credentials in time.
func (c *conn) outlivedLocked(now time.Time) bool {
	return c.owner != nil && (c.owner.Ended() || c.login.Failed(elapsed(c.login.Began, now)))
}
