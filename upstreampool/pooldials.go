package upstreampool

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// errUnusable is as good as a failed dial: nothing was sent. Dialing again for
// the same request could go on for as long as the client waits.
var errUnusable = reverseproxy.NewDialError(errors.New("opening connection: the upstream ended it before it could be used"))

// opened adds the outcome of a dial.
func (p *pool) opened(c *conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.dials--
	if err != nil {
		p.dialFailed(now, err)
		p.startDials(now)
		p.tidy()
		return
	}
	p.open++
	p.stats.opened++
	c.idleAt = c.opened
	c.become(stateIdle)
	p.idle = append(p.idle, c)
	p.core.idle.Add(1)
	if c.net.closed.Load() {
		go p.removed(c) // before we could be told
		p.dialFailed(now, errUnusable)
		return
	}
	// Those that wait get it as a fresh connection, whatever its protocol.
	for w := p.queue.first; w != nil && (c.leases == 0 || c.h2 && !c.spent()); w = p.queue.first {
		if !c.reserve() {
			if c.leases == 0 {
				p.doom(c, CloseFailed)
				p.dialFailed(now, errUnusable)
				p.startDials(now)
				return
			}
			break
		}
		p.lease(c, now, w.need)
		p.queue.remove(w)
		w.grant <- grant{c: c}
	}
	if c.leases == 0 {
		switch {
		case p.core.draining.Load():
			p.doom(c, CloseDrained)
		case len(p.idle) > p.core.cfg.minIdle: // or min_idle would dial anew
			p.trim()
		}
		p.watchIdle(c, now, c.age(now), c.limit(now))
	}
	p.startDials(now)
}

// dialFailed tells a waiter: each has a dial of its own, unless one dial was
// for all of them.
func (p *pool) dialFailed(now time.Time, err error) {
	p.stats.dialErrors++
	p.rest(now)
	all := p.oneDial()
	for w := p.queue.first; w != nil; w = p.queue.first {
		p.queue.remove(w)
		w.grant <- grant{err: err}
		if !all {
			break
		}
	}
}

// oneDial tells whether one dial serves many requests.
func (p *pool) oneDial() bool { return p.h2() && p.core.cfg.maxRequests != 1 }

// h2 tells whether the next connection will speak HTTP/2, as far as is known.
func (p *pool) h2() bool { return p.core.h2(p.key, p.up) }

// dialing tells whether a dial under way is for w.
func (p *pool) dialing(w *waiter) bool {
	if p.oneDial() {
		return w.queued && p.dials > 0
	}
	v := p.queue.first
	for n := p.dials; n > 0 && v != nil; n-- {
		if v == w {
			return true
		}
		v = v.next
	}
	return false
}

// startDials starts the dials that those that wait, and min_idle, need.
func (p *pool) startDials(now time.Time) {
	want := max(0, p.queue.n-int(p.returning.Load()))
	if p.oneDial() {
		want = min(want, 1)
	}
	if warm := p.missing(now); warm > 0 && !now.Before(p.retryAt) {
		want += warm
	}
	for p.dials < want && !p.full() {
		p.dials++
		go func() { p.opened(p.dial(p)) }()
	}
}

// rest has min_idle wait before it dials again.
func (p *pool) rest(now time.Time) {
	p.retryAt = now.Add(redialAfter)
	if p.missing(now) > 0 {
		p.arm(p.retryAt)
	}
}

// lost notes that c is gone. What was of no use to anyone within redialAfter
// would be followed by more of the same, as fast as they can be dialed.
func (p *pool) lost(c *conn, now time.Time) {
	if c.requests == 0 && elapsed(c.opened, now) < redialAfter {
		p.rest(now)
	}
}

// missing returns how many idle connections min_idle lacks: none, where they
// could not be used.
func (p *pool) missing(now time.Time) int {
	n := p.core.cfg.minIdle - len(p.idle)
	if n <= 0 || p.core.draining.Load() || now.Sub(p.usedAt) >= warmFor ||
		p.up.learner(p.h2()).UnusedLimit(now).Value == 0 {
		return 0
	}
	return n
}
