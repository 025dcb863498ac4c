package connpool

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/demand"
	"github.com/caddy-connreuse/connreuse/internal/memory"
)

// ErrUnusable is as good as a failed dial: nothing was sent. Dialing again for the
// same request could go on for as long as the client waits.
var ErrUnusable = errors.New("opening connection: the upstream ended it before it could be used")

// A Dial is one connection that is being opened.
type Dial struct{ c *conn }

// Wrap returns what stands between net/http and the socket nc. secured says that
// nothing comes before HTTP, as TLS does.
func (d *Dial) Wrap(nc net.Conn, secured bool) net.Conn {
	d.c.wrap(nc)
	if secured {
		d.c.net.Begin()
	}
	return &d.c.net
}

// Secured tells that what comes before HTTP is over.
func (d *Dial) Secured() { d.c.net.Begin() }

// Dialed is a connection that was opened.
type Dialed struct {
	Conn    *http.ClientConn
	HTTP2   bool
	Connect time.Duration // how long TCP took to connect; 0: unknown
}

// startDialsLocked starts the dials that those that wait, and MinIdle, need.
func (p *Pool) startDialsLocked(now time.Time) {
	upstream := p.upstream()
	need, want := p.dials.Want(now, p.waitingLocked(), upstream)
	if upstream.Shares {
		p.armLocked(p.dials.Next())
	}
	underWay := p.underWayLocked(now, upstream)
	n := want - underWay
	if warm := p.missingLocked(now); warm > 0 && p.warm.MayDial(now) {
		n = max(n, want+warm-p.lists[dialing].Len())
	}
	for ; n > 0 && !p.fullLocked(); n-- {
		p.dialLocked(now)
		if underWay++; need < underWay && underWay <= want {
			p.afterLocked(p.events.Hedged)
		}
	}
}

// dialLocked starts a dial for the first waiter that has none.
func (p *Pool) dialLocked(now time.Time) {
	c := &conn{pool: p, dialed: now, life: p.cfg.life()}
	c.net.above = c
	if w := p.queue.Find(func(w *waiter) bool { return !w.dialed }); w != nil {
		w.dialed, c.dialedFor = true, w
	}
	p.addLocked(c)
	p.watchFirstLocked(c, now)
	go func() {
		d, err := p.opt.Dial(&Dial{c})
		p.dialEnded(c, d, err)
	}()
}

// underWayLocked returns how many dials those that wait can hope for. A dial counts while
// its request waits, or while it is younger than patience: the timer runs when it is not
// any more. An open HTTP/2 connection without SETTINGS counts as one, but not for
// founders, since it takes no more than one request so far.
func (p *Pool) underWayLocked(now time.Time, u demand.Upstream) (n int) {
	patience := u.Patience()
	for c := range p.lists[dialing].All() {
		if w, late := c.dialedFor, c.dialed.Add(patience); w != nil && w.place.Listed() {
			n++
		} else if now.Before(late) {
			n++
			p.armLocked(late)
		}
	}
	if p.queue.Len() == 0 || !u.Shares {
		return n
	}
	hopes := 0
	for c := range p.lists[listStreams].All() {
		if !c.streams.Seen() && now.Sub(c.dialed) < patience {
			hopes++
		}
	}
	for c := range p.lists[fresh].All() {
		if c.h2 && c.streams.Room(c.leases) <= 0 {
			hopes++
		}
	}
	return n + min(hopes, p.queue.Len()-p.queue.founders)
}

// waitingLocked returns who waits.
func (p *Pool) waitingLocked() demand.Waiting {
	w := demand.Waiting{Requests: p.queue.Len(), Founders: p.queue.founders}
	if w.Requests > 0 && !p.fullLocked() {
		w.Returning = p.returningLocked(w.Requests)
	}
	return w
}

// mostReturning is how many connections are looked at to see which are returning. With
// more of them under way, a dial too many matters little.
const mostReturning = 256

// returningLocked returns how many HTTP/1 connections, most at most, are about to be
// idle: their responses are complete, though nobody has looked for surplus bytes yet.
// Nobody needs to dial in the moment until then. Each of them is given back or closed.
func (p *Pool) returningLocked(most int) (n int) {
	left := mostReturning
	for c := range p.lists[busy].All() {
		if left--; left < 0 || n == most {
			break
		}
		if !c.h2 && c.complete() {
			n++
		}
	}
	return n
}

// upstream returns what is known of the upstream's connections.
func (p *Pool) upstream() demand.Upstream {
	return demand.Upstream{Shares: p.sharesDials(), Streams: p.memory.Streams.Limit(), Usable: p.memory.Streams.Usable()}
}

// sharesDials tells whether one dial serves many requests.
func (p *Pool) sharesDials() bool { return p.HTTP2() && p.cfg.MaxRequests != 1 }

// HTTP2 tells whether the next connection will speak HTTP/2, as far as is known.
func (p *Pool) HTTP2() bool {
	if p.opt.Protocol != memory.Negotiated {
		return p.opt.Protocol == memory.HTTP2
	}
	return p.memory.Protocol() == memory.HTTP2
}

// dialsForLocked tells whether a dial under way is for w: it is among the first, whom
// the new connections will serve.
func (p *Pool) dialsForLocked(w *waiter) bool {
	served := p.lists[dialing].Len()
	if p.sharesDials() {
		served *= cmp.Or(p.memory.Streams.Limit(), p.queue.Len())
	}
	for v := range p.queue.All() {
		if served--; served < 0 || v == w {
			return served >= 0
		}
	}
	return false
}

// dialEnded takes in the outcome of a dial. A connection is counted before anybody can have
// it.
func (p *Pool) dialEnded(c *conn, d Dialed, err error) {
	if err == nil {
		p.events.Opened()
	}
	p.lock()
	defer p.unlock()
	now := time.Now()
	if err != nil {
		p.moveLocked(c, closed)
		p.dialFailedLocked(now, c, err)
		return
	}
	c.adoptLocked(d, now)
	p.moveLocked(c, fresh)
	if c.net.IsShut() {
		go p.removed(c) // it was closed before we could be told
		return
	}
	if !p.introduceLocked(c, now) {
		p.closeLocked(c, CloseFailed)
		p.uselessLocked(c, now)
		return
	}
	if c.leases > 0 {
		p.dials.Succeeded()
		c.dialedFor = nil
		if c.owner != nil {
			p.serveLocked(c, now) // its SETTINGS may be here already
		}
	} else {
		w := c.dialedFor
		c.untried = w != nil && w.need.Probe && w.need.Freshness == Fresh && w.need.Replayable
		p.keepFreshLocked(c, now)
	}
	p.startDialsLocked(now)
}

// adoptLocked makes c the connection that was dialed.
func (c *conn) adoptLocked(d Dialed, now time.Time) {
	m := c.pool.memory
	c.cc, c.h2, c.opened, c.idleAt = d.Conn, d.HTTP2, now, now
	if c.pool.opt.Protocol == memory.Negotiated {
		m.Chose(c.h2)
	}
	c.learner = m.Learner(c.h2)
	if d.Connect > 0 {
		c.learner.Connected(now, d.Connect)
	}
	if !c.h2 {
		return
	}
	c.streams.Init(c.cc, c.dialed, &m.Streams, c.streamRead, c.serveWaiters)
	c.cc.SetStateHook(c.stateChanged)
	if c.net.SettingsRead() {
		c.streams.NoteSettings()
	}
}

// introduceLocked gives a connection to those that wait, as a fresh one, whatever
// its protocol. It tells whether the connection can be used.
func (p *Pool) introduceLocked(c *conn, now time.Time) bool {
	for w := range p.queue.All() {
		if c.leases > 0 && !c.h2 {
			return true
		}
		if c.leases > 0 && (c.owner != nil || w.pin != nil) {
			continue
		}
		if _, worn := c.wornLocked(now); worn && c.leases > 0 {
			return true
		}
		if !c.reserveLocked() {
			// SETTINGS may allow no stream for now.
			return c.leases > 0 || c.h2 && c.cc.Err() == nil
		}
		if w.pin != nil {
			p.ownLocked(c, w.need.Owner, w.pin, now)
		}
		g := grant{c: c, nth: c.requests + 1, First: c.requests == 0}
		p.leaseLocked(c, now, w.need)
		p.leaveLocked(w)
		w.grant <- g
	}
	return true
}

// keepFreshLocked keeps a connection that nobody waited for.
func (p *Pool) keepFreshLocked(c *conn, now time.Time) {
	switch {
	case p.group.retired.Load():
		p.closeLocked(c, CloseDrained)
	case p.spareLocked() > p.cfg.MinIdle: // or MinIdle would dial anew
		p.boundLocked()
	}
	if c.idles() {
		c.askLimitLocked(now)
		p.watchIdleLocked(c, now)
		if c.h2 {
			c.askWhyNoStreams() // nobody did while it was dialed
		}
	}
}

// dialFailedLocked tells a waiter that a dial failed: the one that it was dialed for, if
// there are fewer dials than waiters now. The others get another dial, and are told when
// two that began since they wait failed alike, one after the other. As long as in a full
// pool, they hope for connections that are busy instead.
func (p *Pool) dialFailedLocked(now time.Time, c *conn, err error) {
	p.afterLocked(func() { p.events.DialFailed(err) })
	p.warm.BackOff(now)
	since := p.dials.Failed(c.dialed, err)
	if late := now.Add(-p.cfg.AcquireTimeout); late.Before(since) && p.busyServesLocked(now) {
		since = late
	}
	hopeless := func(w *waiter) bool { return !w.since.After(since) }
	w := c.dialedFor
	if w != nil {
		w.dialed = false
	}
	if p.underWayLocked(now, p.upstream()) >= p.queue.Len() {
		w = nil
	}
	for w = cmp.Or(w, p.queue.Find(hopeless)); w != nil; w = p.queue.Find(hopeless) {
		if p.leaveLocked(w) {
			w.grant <- grant{err: err}
		}
	}
	p.startDialsLocked(now)
	if p.missingLocked(now) > 0 {
		p.armLocked(p.warm.RetryAt())
	}
	p.tidyLocked(now)
}

// busyServesLocked tells whether a busy connection may be of use to others when its
// requests have ended.
func (p *Pool) busyServesLocked(now time.Time) bool {
	for c := range p.inListsLocked(carrying[:2]) {
		if _, worn := c.wornLocked(now); !worn && c.owner == nil && c.reason == "" {
			return true
		}
	}
	return false
}

// uselessLocked tells a waiter that a connection came to nothing, if that was before it
// was used: that is as good as a failed dial.
func (p *Pool) uselessLocked(c *conn, now time.Time) {
	if c.dialedFor != nil && c.requests == 0 {
		p.dialFailedLocked(now, c, ErrUnusable)
		c.dialedFor = nil
	}
}
