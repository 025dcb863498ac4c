package connpool

import "time"

// armLocked makes the timer run at t at the latest, unless t is zero.
func (p *Pool) armLocked(t time.Time) {
	if t.IsZero() || !p.timerAt.IsZero() && !t.Before(p.timerAt) {
		return
	}
	p.timerAt = t
	d := time.Until(t)
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.tick)
	} else {
		p.timer.Reset(d)
	}
}

// watchIdleLocked has the timer run when c, which is idle, reaches its limit or the
// end of its lifetime, and when it may not be needed any more.
func (p *Pool) watchIdleLocked(c *conn, now time.Time) {
	due := now.Add(c.limit.Value - c.ageLocked(now))
	if c.owner != nil {
		due = c.login.Due(due, now, c.ageLocked(now))
	}
	p.armLocked(due)
	if c.life > 0 {
		p.armLocked(now.Add(c.life - elapsed(c.opened, now)))
	}
	p.armLocked(p.idle.Kept(now, p.spareLocked(), p.cfg.MinIdle))
}

// tick does what is due.
func (p *Pool) tick() {
	look, silent := p.lookAtSensor(), p.listen()
	p.lock()
	defer p.unlock()
	now := time.Now()
	p.timerAt = time.Time{}
	for c := range p.inListsLocked(resting[1:]) {
		if p.fitLocked(c, now) {
			p.watchIdleLocked(c, now)
		}
	}
	if c := p.lists[sensor].First(); c != nil {
		p.checkSensorLocked(c, now, look)
	}
	if p.lists[listPinned].Len() > 0 && p.fullLocked() && p.waitersExceedComingLocked() {
		p.makeRoomLocked(now)
	}
	p.judgeLocked(silent, now)
	p.trimLocked(now)
	p.checkFirstsLocked(now)
	p.startDialsLocked(now)
	if p.missingLocked(now) > 0 {
		p.armLocked(p.warm.NextLook(now))
	}
	p.tidyLocked(now)
}

// spareLocked returns how many connections wait for anybody's requests.
func (p *Pool) spareLocked() int { return p.lists[idle].Len() + p.lists[fresh].Len() }

// resting are the lists of connections that are open and carry no request, in the
// order in which they make room for others. All but the first wait for requests.
var resting = [...]int{int(sensor), int(idle), int(fresh), listPinned}

// restingLocked returns how many connections are open and carry no request.
func (p *Pool) restingLocked() (n int) {
	for _, l := range resting {
		n += p.lists[l].Len()
	}
	return n
}

// makeRoomLocked closes a connection that takes up a place and carries no request: the
// sensor, or else the oldest of those that are idle, fresh or pinned, in this order. It
// was not good enough for the request at hand. The place becomes free when it is closed.
func (p *Pool) makeRoomLocked(now time.Time) {
	for c := range p.inListsLocked(resting[:]) {
		if !c.login.Underway(c.ageLocked(now)) {
			p.displaceLocked(c)
			return
		}
	}
}

// displaceLocked closes a connection that rests, to make room.
func (p *Pool) displaceLocked(c *conn) {
	reason := CloseReplaced
	if c.is(sensor) {
		reason = CloseSensor
	}
	p.closeLocked(c, reason)
}

// trimLocked closes connections that are not needed.
func (p *Pool) trimLocked(now time.Time) {
	n, next := p.idle.Trim(now, p.spareLocked(), p.cfg.MinIdle)
	for range n {
		p.closeLocked(p.oldestLocked(int(idle), int(fresh)), CloseNotNeeded)
	}
	p.armLocked(next)
}

// oldestLocked returns the connection that has been idle for longest, of some lists.
func (p *Pool) oldestLocked(lists ...int) (oldest *conn) {
	for _, l := range lists {
		if c := p.lists[l].First(); oldest == nil || c != nil && c.idleAt.Before(oldest.idleAt) {
			oldest = c
		}
	}
	return oldest
}

// boundLocked closes the oldest idle connection if the pool has too many.
func (p *Pool) boundLocked() {
	if most := p.cfg.MaxIdlePerPool; most > 0 && p.spareLocked()+p.lists[listPinned].Len() > most {
		p.closeLocked(p.oldestLocked(resting[1:]...), CloseMaxIdle)
	}
}

// evict closes c, for which the list of all pools has no room, unless it has been
// in use since.
func (p *Pool) evict(c *conn) {
	p.lock()
	defer p.unlock()
	if c.idles() && !p.group.idle.Has(&c.inGroup) {
		p.closeLocked(c, CloseMaxIdle)
		p.tidyLocked(time.Now())
	}
}

// Drain closes what is idle, and returns how many connections that were. None is
// kept warm until the next request.
func (p *Pool) Drain() (closed int) {
	p.lock()
	defer p.unlock()
	p.warm.Stop()
	for c := range p.inListsLocked(resting[:]) {
		p.closeLocked(c, CloseDrained)
		closed++
	}
	p.tidyLocked(time.Now())
	return closed
}

// tidyLocked stops the timer of a pool that has nothing to wait for, and ends a
// pool that holds nothing.
func (p *Pool) tidyLocked(now time.Time) {
	if p.inLocked(busy)+p.lists[draining].Len() == 0 {
		p.listenAt = time.Time{}
	}
	if !p.listenAt.IsZero() || p.restingLocked() > 0 || p.queue.Len() > 0 || p.missingLocked(now) > 0 || !p.firsts.lookAt.IsZero() || p.firsts.favoured != nil {
		return
	}
	if p.timer != nil && !p.timerAt.IsZero() {
		p.timer.Stop()
		p.timerAt = time.Time{}
	}
	if p.gone || p.countedLocked() > 0 || p.lists[draining].Len() > 0 || p.lists[upgraded].Len() > 0 {
		return
	}
	p.gone = true
	p.afterLocked(p.opt.Emptied)
}
