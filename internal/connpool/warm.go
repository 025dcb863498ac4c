package connpool

import "time"

const (
	// warmFor is how long after its last request a pool keeps MinIdle connections
	// open. Addresses can be chosen by clients.
	warmFor = time.Hour

	// redialAfter is the pause after a dial for MinIdle was of no use. It doubles
	// with each one, up to redialAtLast.
	redialAfter  = time.Second
	redialAtLast = time.Minute
)

// warmth is what a pool knows about keeping MinIdle connections open.
type warmth struct {
	usedAt   time.Time // last request
	renewal  int64     // of the group, at that time
	stopped  bool      // drained since
	retryAt  time.Time // no dial before
	failures int       // dials that were of no use, in a row
}

func (w *warmth) used(now time.Time, g *Group) {
	w.usedAt, w.renewal, w.stopped = now, g.renewals.Load(), false
}

// backOff has dials wait. Several that fail together count as one.
func (w *warmth) backOff(now time.Time) {
	if now.Before(w.retryAt) {
		return
	}
	pause := redialAtLast
	if w.failures < 6 {
		pause = min(redialAfter<<w.failures, redialAtLast)
	}
	w.failures++
	w.retryAt = now.Add(pause)
}

// missingLocked returns how many idle connections MinIdle lacks: none, where they
// could not be used, or nobody uses them.
func (p *Pool) missingLocked(now time.Time) int {
	n := p.cfg.MinIdle - p.spareLocked()
	if n <= 0 || p.group.retired.Load() || p.warm.stopped || now.Sub(p.warm.usedAt) >= warmFor ||
		p.warm.renewal != p.group.renewals.Load() || p.memory.Learner(p.HTTP2()).UnusedLimit(now).Value == 0 {
		return 0
	}
	return n
}

// coolLocked notes that c is gone. What was of no use to anyone within redialAfter
// would be followed by more of the same, as fast as they can be dialed.
func (p *Pool) coolLocked(c *conn, now time.Time) {
	switch {
	case c.requests > 0 || elapsed(c.opened, now) >= redialAfter:
		p.warm.failures = 0
	default:
		p.warm.backOff(now)
		if p.missingLocked(now) > 0 {
			p.armLocked(p.warm.retryAt)
		}
	}
}
