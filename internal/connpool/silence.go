package connpool

import (
	"time"

	"github.com/caddy-connreuse/connreuse/internal/socket"
)

const (
	// listenEvery is the time between two looks at connections that wait for a response.
	listenEvery = 500 * time.Millisecond

	// suspended is how late a look must be to show that the process did not run. When a
	// virtual machine goes on after a pause, all that was under way seems unanswered for
	// as long, until the upstreams have had time to answer.
	suspended = time.Second

	// quietFor is for how long nothing must have been read before a look is worth its
	// system call. Nothing is sent again sooner than in 200 ms.
	quietFor = 250 * time.Millisecond

	// longIdle is the idle age from which a look into TCP_INFO is worth it.
	longIdle = time.Second
)

// awaitsResponseLocked tells whether c carries a request without a byte of a response. What arrives
// during the first one may belong to TLS: session tickets.
func (c *conn) awaitsResponseLocked() bool {
	if c.h2 {
		return c.carries() && c.leases > c.streams.Arriving()
	}
	return c.is(busy) && (!c.net.Responded() || c.requests == 1 && c.net.TLS())
}

// quietLocked tells whether c waits for a response, and nothing has been read lately.
func (c *conn) quietLocked(now time.Time) bool {
	return c.awaitsResponseLocked() && c.net.QuietFor(now) >= quietFor
}

// deaf tells whether c, which was taken out of the pool, had better not be used: its
// upstream owes an answer, or has not shown for long that it is there.
func (c *conn) deaf(idle time.Duration) bool {
	info, silence, ok := c.net.Look(time.Now(), time.Time{})
	probed := c.pool.cfg.ProbeInterval
	return ok && (silence.Overdue() || idle >= longIdle && probed > 0 && !info.Alive(probed))
}

// avoid ends the lease of a connection that is deaf, and has it carry no more requests.
func (p *Pool) avoid(c *conn) {
	p.lock()
	defer p.unlock()
	c.requests--
	switch now := time.Now(); {
	case !c.carries():
	case c.leases > 1:
		p.retreatLocked(c)
		p.endStreamLocked(c, now, c.streams.LastEnd(now))
	default:
		p.closeLocked(c, CloseSuspect)
	}
}

// retreatLocked has an HTTP/2 connection take no more requests: its path seems dead.
// Other streams may outlive the outage.
func (p *Pool) retreatLocked(c *conn) {
	if c.is(busy) {
		c.reason = CloseFailed
		p.moveLocked(c, draining)
	}
}

// listenLocked has the timer listen to c, which begins to wait for a response. There is
// one timer for all: requests come and go more often than it runs.
func (p *Pool) listenLocked(c *conn, now time.Time) {
	if p.listenAt.IsZero() && c.net.HasTCP() {
		p.listenAt = now.Add(listenEvery)
		p.armLocked(p.listenAt)
	}
}

// carrying are the lists of connections that carry requests.
var carrying = [...]int{int(busy), listStreams, int(draining)}

// listened is what was heard of a connection that waits for a response.
type listened struct {
	conn    *conn
	silence socket.Silence
}

// listen looks into the sockets of connections that wait for a response, before the
// pool is locked. It needs no look where nothing was sent since the upstream had all.
func (p *Pool) listen() (all []listened) {
	p.lock()
	if now := time.Now(); !p.listenAt.IsZero() && !now.Before(p.listenAt) {
		late := now.Sub(p.listenAt) > suspended
		p.listenAt = time.Time{}
		for c := range p.inListsLocked(carrying[:]) {
			if c.awaitsResponseLocked() {
				p.listenAt = now.Add(listenEvery)
			}
			if !late && c.quietLocked(now) && !c.net.Settled() {
				all = append(all, listened{conn: c})
			}
		}
	}
	p.unlock()
	for i := range all {
		all[i].silence = all[i].conn.net.Listen()
	}
	return all
}

// judgeLocked does what is due about connections that were listened to, as far as they
// are still quiet. At the first that is lost, others are suspicious. What has been silent
// for too long is given up.
func (p *Pool) judgeLocked(all []listened, now time.Time) {
	for _, h := range all {
		c, s := h.conn, h.silence
		if !c.quietLocked(now) {
			continue
		}
		if c.h2 && s.Overdue() {
			p.retreatLocked(c)
		}
		if s.Lost() && !c.lost {
			c.lost = true
			p.suspectLocked(now, c.idledFor)
		}
		if most := p.cfg.UnackedTimeout; most > 0 && s.Repeated && s.For >= most {
			p.giveUpLocked(c, h)
		}
	}
	p.armLocked(p.listenAt)
}

// suspectLocked closes the idle connections that are at least half as old as one
// that was dead: whatever ended it is likely to have ended them. Other pools of the
// upstream do so before they use one.
func (p *Pool) suspectLocked(now time.Time, age time.Duration) {
	before := now.Add(-age / 2)
	p.memory.Suspect(before)
	for c := range p.inListsLocked(resting[1:]) {
		if !c.idleAt.After(before) {
			p.closeLocked(c, CloseSuspect)
		}
	}
}

// noteSilence completes what is known of a request that failed: was it given up for
// silence?
func (l *Lease) noteSilence(f *Failure) {
	c := l.c
	l.pool.lock()
	defer l.pool.unlock()
	if f.Silent, _ = c.endedBySilence(); c.reason == CloseUnacked || l.canceler != nil && l.canceler.used {
		f.Silent = CloseUnacked
	}
	if f.Silent != "" {
		f.Refused, f.StreamOnly, f.Responded = false, false, false
	}
}

// hangUp closes c. Where nobody answers, nobody need be told.
func (c *conn) hangUp(reason CloseReason) {
	if reason == CloseUnacked {
		_ = c.net.Close()
	}
	_ = c.cc.Close()
}
