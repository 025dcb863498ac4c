package connpool

import "time"

// missingLocked returns how many idle connections MinIdle lacks: none, where they
// could not be used, nobody uses them, or they would block others.
func (p *Pool) missingLocked(now time.Time) int {
	n := p.cfg.MinIdle - p.spareLocked()
	if n <= 0 || p.group.retired.Load() || !p.warm.Wanted(now, p.opt.WarmFor, p.group.renewals.Load()) ||
		p.memory.Learner(p.HTTP2()).UnusedLimit(now).Value == 0 || p.memory.H1.Serial(now) {
		return 0
	}
	return n
}

// coolLocked notes that c is gone.
func (p *Pool) coolLocked(c *conn, now time.Time) {
	if p.warm.Gone(now, c.requests > 0, elapsed(c.opened, now)) && p.missingLocked(now) > 0 {
		p.armLocked(p.warm.RetryAt())
	}
}
