package upstreampool

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// retire takes an idle connection that has reached its limit out of use: it
// becomes the sensor if one is wanted and the connection has carried a
// request, and is closed otherwise.
func (p *pool) retire(c *conn, now time.Time, age time.Duration, limit idletime.Limit) {
	late := age - limit.Value
	// A sensor must not take the place of a request that waits. It makes room for later ones.
	noRoom := p.queue.n > 0 && p.full()
	if p.sensor != nil || noRoom || c.requests == 0 || late > tolerance(age) ||
		p.core.draining.Load() || !c.learner.StartSensor(now) {
		p.doom(c, CloseIdleLimit)
		return
	}
	p.leaveIdle(c)
	c.become(stateSensor)
	c.alive = now
	p.sensor = c
	p.arm(p.watch(c, now))
}

// tolerance is how exactly the age of a close must be known to count.
func tolerance(age time.Duration) time.Duration {
	return max(300*time.Millisecond, age/10)
}

// watch schedules the next look at the sensor. Looks are frequent enough that
// a suspended process, which sees a close too late, is noticed.
func (p *pool) watch(c *conn, now time.Time) time.Time {
	p.lookAt = now.Add(max(250*time.Millisecond, c.age(now)/20))
	return p.lookAt
}

// arm makes the timer run at t at the latest.
func (p *pool) arm(t time.Time) {
	if !p.timerAt.IsZero() && !t.Before(p.timerAt) {
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

// watchIdle has the timer run when c, which is idle, reaches its limit or the
// end of its lifetime.
func (p *pool) watchIdle(c *conn, now time.Time, age time.Duration, limit idletime.Limit) {
	c.allowed = limit.Value
	p.arm(now.Add(limit.Value - age))
	if c.life > 0 {
		p.arm(now.Add(c.life - elapsed(c.opened, now)))
	}
}

// tick retires what has been idle for long enough.
func (p *pool) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.timerAt = time.Time{}
	for i := len(p.idle) - 1; i >= 0; i-- {
		c := p.idle[i]
		age, limit := c.age(now), c.limit(now)
		switch reason, worn := c.worn(now); {
		case worn:
			p.doom(c, reason)
		case age >= limit.Value:
			p.retire(c, now, age, limit)
		default:
			p.watchIdle(c, now, age, limit)
		}
	}
	if c := p.sensor; c != nil {
		p.checkSensor(c, now)
	}
	p.startDials(now)
	if p.missing(now) > 0 {
		p.arm(now.Add(redialAfter))
	}
	p.tidy()
}

// checkSensor looks at the sensor, which is still open.
func (p *pool) checkSensor(c *conn, now time.Time) {
	age := c.age(now)
	switch late := elapsed(p.lookAt, now); {
	case late > tolerance(age):
		p.doom(c, CloseSensor) // we were not there to see
	case now.Before(p.lookAt):
		p.arm(p.lookAt)
	default:
		c.alive = now
		if c.learner.SensorSawOpen(c.seen(now, age, idletime.LivePath)) {
			p.doom(c, CloseSensor)
			return
		}
		p.arm(p.watch(c, now))
	}
}

// sawGoAway closes an idle connection that received a GOAWAY.
func (p *pool) sawGoAway(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.is(stateIdle) || c.is(stateSensor) {
		p.learnFrom(c, CloseUpstream)
		p.doom(c, CloseUpstream)
	}
}

// learnFrom tells the learner that the upstream closed c, which was idle.
func (p *pool) learnFrom(c *conn, reason CloseReason) {
	if reason != CloseUpstream || c.requests == 0 {
		return
	}
	at := c.net.closing.Load().at
	age := c.age(at)
	open := age
	if c.is(stateSensor) {
		open = c.age(c.alive)
		if elapsed(c.alive, at) > age/20+250*time.Millisecond+tolerance(age) {
			return // seen too late
		}
	} else if age >= c.allowed+tolerance(age) {
		return // it should have been retired long ago: we were suspended
	}
	c.learner.SawClose(idletime.Close{At: at, Idle: age, Open: open, Opened: c.opened})
	if ce := p.core.log().Check(zap.DebugLevel, "upstream closed idle connection"); ce != nil {
		ce.Write(zap.String("upstream", p.name), zap.Duration("idle", age), zap.Bool("sensor", c.is(stateSensor)))
	}
}

// removed runs when the socket of c is closed.
func (p *pool) removed(c *conn) {
	end, upstream := CloseReason(""), false
	if c.is(stateIdle) || c.is(stateSensor) {
		end, upstream = c.ending()
	}
	p.mu.Lock()
	if c.is(stateClosed) {
		p.mu.Unlock()
		return
	}
	reason := c.reason
	switch connState(c.state.Load()) {
	case stateIdle, stateSensor:
		reason = end
		if reason == "" {
			reason = CloseFailed
		}
		if upstream {
			p.learnFrom(c, CloseUpstream)
		}
	case stateUpgraded:
		reason = CloseUpgraded
	case stateBusy:
		if reason == "" {
			reason = CloseFailed
			if !p.core.cfg.reuse {
				reason = CloseRequested
			}
		}
	}
	p.leaveIdle(c)
	p.leaveBusy(c)
	p.leaveSensor(c)
	if c.is(stateUpgraded) {
		p.stats.upgraded--
	} else {
		p.open--
	}
	now := time.Now()
	if !c.is(stateClosing) {
		p.lost(c, now)
	}
	c.become(stateClosed)
	p.stats.closed(reason)
	p.startDials(now)
	p.tidy()
	p.mu.Unlock()
	countClosed(p.label, reason)
}

// upgraded lets c leave the pool, to become another protocol.
func (p *pool) upgraded(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.is(stateBusy) {
		return
	}
	p.leaveBusy(c)
	c.become(stateUpgraded)
	p.open--
	p.stats.upgraded++
	p.startDials(time.Now())
}

// drain closes what is idle, and returns how many connections that were.
func (p *pool) drain() (closed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; len(p.idle) > 0; closed++ {
		p.doom(p.idle[len(p.idle)-1], CloseDrained)
	}
	if p.sensor != nil {
		p.doom(p.sensor, CloseDrained)
		closed++
	}
	p.tidy()
	return closed
}

// tidy stops the timer of a pool that has nothing to wait for, and removes a
// pool that holds nothing: clients can choose keys.
func (p *pool) tidy() {
	if len(p.idle) > 0 || p.sensor != nil || p.missing(time.Now()) > 0 {
		return
	}
	if p.timer != nil && !p.timerAt.IsZero() {
		p.timer.Stop()
		p.timerAt = time.Time{}
	}
	if p.open > 0 || p.dials > 0 || p.queue.n > 0 || p.stats.upgraded > 0 || p.gone {
		return
	}
	p.gone = true
	go p.core.forget(p)
}
