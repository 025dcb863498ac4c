package connpool

import "time"

// Some upstreams serve one connection at a time, as small devices do. There, a
// connection that is kept open blocks all others. Those with few workers, one for
// each connection, are not much better. It shows when a first request has no
// response for long, or TLS takes long before it: an idle connection is closed, and if
// that helps, something happens at once.

const (
	// lookAgain is the time between two looks for first requests without a response.
	lookAgain = 500 * time.Millisecond

	// yieldShows is how soon a byte arrives if it helped to close the others.
	yieldShows = 250 * time.Millisecond
)

// firsts is what a pool does about first requests without a response.
type firsts struct {
	lookAt   time.Time // when to look for one; zero: there are none
	favoured *conn     // another one was closed for it; nil: none was
	since    time.Time // when it had begun to wait
	waited   int       // how many waited then
	showsBy  time.Time
}

// silentSinceLocked returns since when a request waits for the first bytes that c brings:
// those of TLS, or those of its first response in HTTP/1; zero: none does.
func (c *conn) silentSinceLocked() (t time.Time) {
	switch w := c.dialedFor; {
	case !c.net.Connected() || c.net.Responded():
	case c.is(dialing) && w != nil && w.place.Listed():
		t = c.dialed
	case c.is(busy) && !c.h2 && c.requests == 1:
		t = c.takenAt
	}
	return t
}

// watchFirstLocked has the timer look at a connection that has carried no request, unless
// it is the only one.
func (p *Pool) watchFirstLocked(c *conn, now time.Time) {
	if c.requests == 0 && !c.h2 && !p.HTTP2() && p.firsts.lookAt.IsZero() && p.countedLocked() > 1 {
		p.firsts.lookAt = now.Add(p.memory.H1.Patience(now))
		p.armLocked(p.firsts.lookAt)
	}
}

// checkFirstsLocked does what is due about first requests without a response.
func (p *Pool) checkFirstsLocked(now time.Time) {
	f := &p.firsts
	if w := f.favoured; w != nil && !now.Before(f.showsBy) {
		_, n := p.oldestSilentLocked()
		silent := w.silentSinceLocked().Equal(f.since)
		// It may have ended. Another one may have been served in its place: there is no telling.
		if silent && n >= f.waited || !silent && (w.answered.Load() || w.idles() || w.is(busy)) {
			p.memory.H1.Yielded(now, !silent)
		}
		f.favoured, f.showsBy = nil, time.Time{}
	}
	if !f.lookAt.IsZero() && !now.Before(f.lookAt) {
		f.lookAt = time.Time{}
		if c, n := p.oldestSilentLocked(); c != nil {
			p.yieldToLocked(c, n, now)
		}
	}
	p.armLocked(f.showsBy)
	p.armLocked(f.lookAt)
}

// oldestSilentLocked returns the one that has waited for longest, and how many wait.
func (p *Pool) oldestSilentLocked() (oldest *conn, n int) {
	for c := range p.inListsLocked([]int{int(busy), int(dialing)}) {
		if since := c.silentSinceLocked(); !since.IsZero() {
			if n++; n == 1 || since.Before(oldest.silentSinceLocked()) {
				oldest = c
			}
		}
	}
	return oldest, n
}

func (p *Pool) blockedLocked() bool {
	c, _ := p.oldestSilentLocked()
	return c != nil
}

// yieldToLocked closes as many connections as wait like c, the oldest of them, if it is
// time, and all that have carried no request: they wait in front of c.
func (p *Pool) yieldToLocked(c *conn, waiting int, now time.Time) {
	f := &p.firsts
	if early := p.memory.H1.Patience(now) - elapsed(c.silentSinceLocked(), now); early > 0 {
		f.lookAt = now.Add(early)
		return
	}
	f.lookAt = now.Add(lookAgain)
	if f.favoured == nil && p.lists[sensor].Len()+p.spareLocked() > 0 && p.memory.H1.MayYield(now) {
		for range waiting {
			p.makeRoomLocked(now)
		}
		for unused := range p.lists[fresh].All() {
			p.displaceLocked(unused)
		}
		f.favoured, f.since, f.waited, f.showsBy = c, c.silentSinceLocked(), waiting, now.Add(yieldShows)
	}
}

// clearForDialLocked runs before a connection is opened.
func (p *Pool) clearForDialLocked(now time.Time) {
	if p.restingLocked() > 0 && p.memory.H1.Serial(now) {
		for c := range p.inListsLocked(resting[:]) {
			p.displaceLocked(c)
		}
	}
}
