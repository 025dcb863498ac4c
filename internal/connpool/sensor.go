package connpool

import (
	"errors"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

var errGoAway = errors.New("receiving GOAWAY")

// retireLocked takes an idle connection that has reached its limit out of use: it
// becomes the sensor if one is wanted and the connection has carried a request,
// and is closed otherwise. A sensor takes the place of no request that waits.
func (p *Pool) retireLocked(c *conn, now time.Time) {
	age := c.ageLocked(now)
	late := age - c.limit.Value
	if c.requests > 0 && !c.suspect && late <= idletime.Tolerance(age) {
		c.sightLocked(now, age)
	}
	noRoom := p.queue.Len() > 0 && p.fullLocked()
	if p.lists[sensor].Len() > 0 || noRoom || c.requests == 0 || c.suspect || c.owner != nil || late > idletime.Tolerance(age) ||
		!c.learner.StartSensor(now) {
		p.closeLocked(c, CloseIdleLimit)
		return
	}
	p.moveLocked(c, sensor)
	c.seenOpen = now
	p.armLocked(p.nextLookLocked(c, now))
}

// nextLookLocked returns when to look at the sensor again. Looks are frequent enough
// that a suspended process, which sees a close too late, is noticed.
func (p *Pool) nextLookLocked(c *conn, now time.Time) time.Time {
	p.lookAt = now.Add(max(250*time.Millisecond, c.ageLocked(now)/20))
	return p.lookAt
}

// A sensorLook is one into the socket of the sensor, before the pool is locked.
type sensorLook struct {
	sensor *conn
	proof  idletime.Proof
}

func (p *Pool) lookAtSensor() (l sensorLook) {
	now, interval := time.Now(), p.cfg.ProbeInterval
	p.lock()
	l.sensor = p.lists[sensor].First()
	due := l.sensor != nil && !now.Before(p.lookAt)
	if due {
		// What is to show that connections may become so old has to be from the last two
		// thirds of that time: the path may be lost since.
		if age := l.sensor.ageLocked(now); age >= l.sensor.learner.Config().Ceiling() {
			interval = min(interval, age/3)
		}
	}
	p.unlock()
	if due {
		l.proof = l.sensor.proof(interval)
	}
	return l
}

// checkSensorLocked does what is due about the sensor, which is still open.
func (p *Pool) checkSensorLocked(c *conn, now time.Time, l sensorLook) {
	age := c.ageLocked(now)
	switch late := elapsed(p.lookAt, now); {
	case late > idletime.Tolerance(age):
		p.closeLocked(c, CloseSensor) // we were not there to see
	case now.Before(p.lookAt):
		p.armLocked(p.lookAt)
	case c != l.sensor:
		p.armLocked(now)
	case c.learner.SensorSawOpen(c.seen(now, age, l.proof)):
		p.closeLocked(c, CloseSensor) // it has seen enough
	default:
		c.seenOpen = now
		p.armLocked(p.nextLookLocked(c, now))
	}
}

// streamsRefused closes an idle HTTP/2 connection that has no stream to give any
// more, if that is because of a GOAWAY.
func (p *Pool) streamsRefused(c *conn, at time.Time) {
	if c.streams.Usable() {
		return
	}
	c.ends(at, errGoAway)
	p.lock()
	defer p.unlock()
	if c.idles() || c.is(sensor) {
		p.learnLocked(c)
		p.closeLocked(c, CloseUpstream)
	}
	p.uselessLocked(c, time.Now()) // before anybody dials again for the one it was dialed for
}

// learnLocked tells the learner that the upstream closed c, which was idle.
func (p *Pool) learnLocked(c *conn) {
	if c.requests == 0 {
		return
	}
	at := c.net.Ending().At
	age := c.ageLocked(at)
	open, wasSensor := age, c.is(sensor)
	if wasSensor {
		open = c.ageLocked(c.seenOpen)
		if elapsed(c.seenOpen, at) > age/20+250*time.Millisecond+idletime.Tolerance(age) {
			return // seen too late
		}
	} else if age >= c.limit.Value+idletime.Tolerance(age) {
		return // it should have been retired long ago: we were suspended
	}
	c.learner.SawClose(c.ended(at, age, open))
	p.afterLocked(func() { p.events.SawClose(age, wasSensor) })
}

// removed runs when the socket of c is closed.
func (p *Pool) removed(c *conn) {
	end, upstream := c.howEnded()
	p.lock()
	defer p.unlock()
	now := time.Now()
	if atOnce := c.ageLocked(c.net.Ending().At) < idletime.AtOnce; c.requests == 1 && c.leases == 0 && (upstream || !atOnce) {
		c.countEndLocked(now, atOnce)
	}
	reason := c.reason
	switch s := c.at(); s {
	case closed:
		return
	case fresh, idle, sensor:
		reason = end
		if upstream {
			p.learnLocked(c)
		}
	case busy:
		reason = p.whyBusyEndedLocked(c, end, upstream)
	case upgraded:
		reason = CloseUpgraded
	}
	if !c.is(closing) {
		p.coolLocked(c, now)
	}
	if (end == CloseSilent || end == ClosePing) && c.reason == "" {
		p.suspectLocked(now, c.ageLocked(now))
	}
	p.moveLocked(c, closed)
	p.afterLocked(func() { p.events.Closed(reason) })
	p.uselessLocked(c, now)
	p.startDialsLocked(now)
	p.tidyLocked(now)
}

// whyBusyEndedLocked returns why a connection that carried requests was closed, not
// by us. If all streams of an HTTP/2 connection had ended, though a client still
// reads, it is as good as idle.
func (p *Pool) whyBusyEndedLocked(c *conn, end CloseReason, upstream bool) CloseReason {
	since, known := c.streams.AllEndedAt()
	switch {
	case c.reason != "":
		return c.reason
	case end == CloseSilent, end == ClosePing:
		return end
	case !p.cfg.Reuse:
		return CloseRequested
	case c.h2 && known && c.net.Ending().InFlight == 0:
		c.idleAt = since
		c.askLimitLocked(since)
		if upstream {
			p.learnLocked(c)
		}
		return end
	}
	return CloseFailed
}

// howEnded classifies the end of a connection that carried no request when its
// socket was closed and that we did not close: why, and whether that tells when
// the upstream closes idle connections.
func (c *conn) howEnded() (reason CloseReason, closedByUpstream bool) {
	end := c.net.Ending()
	switch reason, silent := c.endedBySilence(); {
	case silent:
		return reason, false
	case end.TimedOut():
		return CloseReadTimeout, false
	case end.Err != nil:
		return CloseUpstream, true // EOF, RST, GOAWAY
	case c.h2:
		// No error from the socket: a GOAWAY, over TLS perhaps with a close_notify
		// behind it, or a protocol error.
		return CloseUpstream, end.LastWords()
	}
	_ = c.cc.Available() // returns once net/http has noted its reason
	switch err := c.cc.Err(); {
	case err == nil:
		return CloseFailed, false
	case replay.ClosedWhileIdle(err):
		return CloseUpstream, true
	}
	return CloseSurplus, false
}
