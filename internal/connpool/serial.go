package connpool

import "time"

// Some upstreams serve one connection at a time, as small devices do. There, a
// connection that is kept open blocks all others. Those with few workers, one for
// each connection, are not much better. It shows when a first request has no
// response for long: an idle connection is closed, and if that helps, a byte arrives
// at once.

const (
	// lookAgain is the time between two looks for first requests without a response.
	lookAgain = time.Second

	// yieldShows is how soon a byte arrives if it helped to close the others.
	yieldShows = 250 * time.Millisecond
)

// firsts is what a pool does about first requests without a response.
type firsts struct {
	lookAt  time.Time // when to look for one; zero: there are none
	waiting *conn     // another one was closed for it; nil: none was
	showsBy time.Time
}

func (f *firsts) watching() bool { return !f.lookAt.IsZero() || f.waiting != nil }

// silent tells whether c carries its first request, in HTTP/1, without a response
// so far.
func (c *conn) silent() bool {
	return c.is(busy) && !c.h2 && c.requests == 1 && !c.net.Responded()
}

// watchFirstLocked has the timer look at the first request of a connection, unless
// it is the only connection.
func (p *Pool) watchFirstLocked(c *conn, now time.Time) {
	if !c.h2 && p.firsts.lookAt.IsZero() && p.countedLocked() > 1 {
		p.firsts.lookAt = now.Add(c.learner.Patience(now))
		p.armLocked(p.firsts.lookAt)
	}
}

// checkFirstsLocked does what is due about first requests without a response.
func (p *Pool) checkFirstsLocked(now time.Time) {
	f := &p.firsts
	if f.waiting != nil && !now.Before(f.showsBy) {
		f.waiting.learner.Yielded(now, !f.waiting.silent())
		f.waiting = nil
	}
	if !f.lookAt.IsZero() && !now.Before(f.lookAt) {
		f.lookAt = time.Time{}
		if c := p.oldestSilentLocked(); c != nil {
			p.yieldToLocked(c, now)
		}
	}
	if f.waiting != nil {
		p.armLocked(f.showsBy)
	}
	p.armLocked(f.lookAt)
}

func (p *Pool) oldestSilentLocked() (oldest *conn) {
	for c := range p.lists[busy].All() {
		if c.silent() && (oldest == nil || c.takenAt.Before(oldest.takenAt)) {
			oldest = c
		}
	}
	return oldest
}

// yieldToLocked closes a connection beside c, if it is time.
func (p *Pool) yieldToLocked(c *conn, now time.Time) {
	f := &p.firsts
	patience, waits := c.learner.Patience(now), elapsed(c.takenAt, now)
	if waits < patience {
		f.lookAt = now.Add(patience - waits)
		return
	}
	f.lookAt = now.Add(lookAgain)
	if f.waiting == nil && p.lists[sensor].Len()+p.spareLocked() > 0 && c.learner.MayYield(now) {
		p.makeRoomLocked()
		f.waiting, f.showsBy = c, now.Add(yieldShows)
	}
}

// clearForDialLocked runs before a connection is opened.
func (p *Pool) clearForDialLocked(now time.Time) {
	if p.restingLocked() == 0 || !p.memory.H1.Serial(now) {
		return
	}
	for c := range p.inLists(resting[:]) {
		p.displaceLocked(c)
	}
}

// blocksLocked tells whether an idle connection would block requests on others.
func (p *Pool) blocksLocked(now time.Time) bool {
	return p.lists[busy].Len() > 0 && p.memory.H1.Serial(now) && p.oldestSilentLocked() != nil
}
