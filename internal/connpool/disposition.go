package connpool

import (
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// fitLocked asks the first questions about c, which carries no request: is it worn,
// suspicious, or over its limit? If so, c is taken out of use.
func (p *Pool) fitLocked(c *conn, now time.Time) bool {
	if reason, worn := c.wornLocked(now); worn {
		p.closeLocked(c, reason)
		return false
	}
	if p.memory.Suspicious(c.idleAt) {
		p.closeLocked(c, CloseSuspect)
		return false
	}
	if c.askLimitLocked(now); c.ageLocked(now) >= c.limit.Value {
		p.retireLocked(c, now)
		return false
	}
	return true
}

// disposeLocked decides what becomes of c, which has just become idle. After the
// first two questions it asks the third: is anyone waiting?
func (p *Pool) disposeLocked(c *conn, now time.Time) {
	if !p.fitLocked(c, now) {
		return
	}
	lingers := c.lingers()
	p.serveLocked(c, now)
	switch {
	case !c.idles():
	case p.fullLocked() && p.waitersExceedComingLocked() && !lingers && !c.login.Underway(c.ageLocked(now)),
		p.cfg.MaxConns > 0 && p.countedLocked() > p.cfg.MaxConns,
		p.memory.H1.Serial(now) && p.blockedLocked():
		p.closeLocked(c, CloseReplaced)
	default:
		p.boundLocked()
		if c.idles() {
			p.watchIdleLocked(c, now)
		}
	}
}

// young tells whether a connection of that age is good enough for n.
func young(age time.Duration, limit *idletime.Limit, n Need) bool {
	return age < limit.Value && (n.Replayable || age < limit.Unreplayable)
}

// serveLocked hands c, which is fit for use, to those that wait, as long as it can take
// requests. In a full pool, an idle connection that is not good enough for the first of
// them makes room for one that is: later ones could take every connection there is.
func (p *Pool) serveLocked(c *conn, now time.Time) {
	if c.owner != nil {
		if own := p.pins[c.owner]; own != nil && own.conn == c {
			p.serveOwnLocked(own, now)
		}
		return
	}
	lingers := c.lingers()
	for w := range p.queue.All() {
		var g grant
		switch {
		case p.tryLocked(c, now, w, &g):
			p.leaveLocked(w)
			w.grant <- g
		case c.idles():
			if w == p.queue.First() && p.fullLocked() && p.comingLocked() == 0 && !lingers {
				p.closeLocked(c, CloseReplaced)
				return
			}
		case w.need.Freshness != Fresh:
			return // it has no free stream, or is closing
		}
	}
}

// tryLocked leases c to a request that waits, if c is good enough for it. One of HTTP/2
// that was opened since it waits is as good as one of its own: a GOAWAY may have refused
// many.
func (p *Pool) tryLocked(c *conn, now time.Time, w *waiter, g *grant) bool {
	switch {
	case w.need.Freshness == Fresh && (!c.h2 || w.pin != nil || !c.opened.After(w.since)):
	case c.idles():
		return p.tryIdleLocked(c, now, w.need, g)
	case c.is(busy) && c.h2:
		return p.tryStreamLocked(c, now, w.need, g)
	}
	return false
}

// comingLocked returns how many connections are being dialed, or closed, which
// makes room for as many.
func (p *Pool) comingLocked() int { return p.lists[dialing].Len() + p.lists[closing].Len() }

// waitersExceedComingLocked tells whether more wait than the connections that are coming
// will serve.
func (p *Pool) waitersExceedComingLocked() bool {
	return p.queue.Len() > p.comingLocked() && (!p.sharesDials() || p.comingLocked() == 0)
}

// offer serves those that wait with c, or with new connections.
func (p *Pool) offer(c *conn) {
	p.lock()
	defer p.unlock()
	now := time.Now()
	if c.is(busy) || c.idles() && p.fitLocked(c, now) {
		p.serveLocked(c, now)
	}
	p.startDialsLocked(now)
}

// returned takes back an HTTP/1 connection whose response is complete. The
// upstream's clock started when it had sent the response, which is not before it
// had the request, and not before our last wait for data ended.
func (p *Pool) returned(c *conn, waitedAt time.Time) {
	p.lock()
	defer p.unlock()
	if !c.complete() { // it was given back, and may have been taken again
		return
	}
	c.idleAt = c.takenAt
	if waitedAt.After(c.idleAt) {
		c.idleAt = waitedAt
	}
	p.releaseLocked(c, time.Now()) // the process may have stood still since net/http began to wait
}

// releaseLocked makes a connection available that carries no request any more.
func (p *Pool) releaseLocked(c *conn, now time.Time) {
	p.idle.InUse(now, p.inLocked(busy))
	if c.requests > 1 {
		c.countEndLocked(now, false)
	}
	c.leases = 0
	to := idle
	if c.requests == 0 {
		to = fresh
	}
	p.moveLocked(c, to)
	p.disposeLocked(c, now)
	p.startDialsLocked(now) // if it was good enough for nobody
}

// endStreamLocked ends one lease of an HTTP/2 connection.
func (p *Pool) endStreamLocked(c *conn, now time.Time, idleAt time.Time) {
	c.leases--
	switch {
	case c.leases > 0 && c.is(busy):
		p.serveLocked(c, now)
	case c.leases > 0:
	case c.is(draining):
		p.closeLocked(c, c.reason)
		p.startDialsLocked(now)
	default:
		c.idleAt = idleAt
		p.releaseLocked(c, now)
	}
}

// unusedLocked undoes a lease whose reservation is gone already. The connection
// has been idle for as long as before, unless others had streams meanwhile.
func (p *Pool) unusedLocked(c *conn, now time.Time) {
	c.requests--
	if c.h2 {
		p.endStreamLocked(c, now, c.streams.LastEnd(c.idleAt))
		return
	}
	p.releaseLocked(c, now)
}

// giveBack takes back a connection whose reservation was not used.
func (p *Pool) giveBack(c *conn) {
	p.lock()
	defer p.unlock()
	if !c.carries() {
		return
	}
	if !c.h2 {
		c.cc.Release()
	}
	p.unusedLocked(c, time.Now())
}

// distrust gives back a connection that did not look alive. net/http will see what
// has become of it, or has seen it by now.
func (p *Pool) distrust(c *conn) {
	p.lock()
	c.suspect = true
	p.unlock()
	p.giveBack(c)
	if c.net.LooksAlive(c.h2) {
		p.trust(c)
	}
}

// trust ends the suspicion against a connection that waits for data again: what its
// socket had was for TLS alone, such as a session ticket. Anything else would have made
// net/http close it.
func (p *Pool) trust(c *conn) {
	p.lock()
	defer p.unlock()
	if c.suspect && c.idles() {
		c.suspect = false
		p.disposeLocked(c, time.Now())
	}
}

// carries tells whether c carries requests.
func (c *conn) carries() bool {
	s := c.at()
	return s == busy || s == draining
}

// drainLocked has a busy HTTP/2 connection take no more requests that has received
// a GOAWAY or is worn, and tells whether it is so. A connection for one request is
// worn from the start, and counts like any other.
func (p *Pool) drainLocked(c *conn, now time.Time) bool {
	reason, worn := c.wornLocked(now)
	if c.h2 && c.streams.Leaving() {
		reason, worn = CloseUpstream, true
	}
	if worn && c.is(busy) && p.cfg.MaxRequests != 1 {
		c.reason = reason
		p.moveLocked(c, draining)
	}
	return worn
}

// closeLocked closes c for the given reason.
func (p *Pool) closeLocked(c *conn, reason CloseReason) {
	if c.is(closing) || c.is(closed) {
		return
	}
	p.coolLocked(c, time.Now())
	p.moveLocked(c, closing)
	c.reason = reason
	p.afterLocked(func() { go c.hangUp(reason) }) // ending TLS and HTTP/2 writes to the socket
}
