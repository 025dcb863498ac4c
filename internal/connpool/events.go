package connpool

import "time"

// unlock unlocks the pool and does what was noted meanwhile.
func (p *Pool) unlock() {
	after := p.after
	p.after = nil
	p.mu.Unlock()
	for i := range after {
		after[i].happen(p)
	}
}

// An event is something to do once the pool is unlocked.
type event struct {
	kind   eventKind
	conn   *conn
	reason CloseReason
	at     time.Time
	idle   time.Duration
	err    error
	apart  *apart
}

type eventKind uint8

const (
	openFailed eventKind = iota
	hedging
	hangUp
	ended
	evicting
	sawClose
	sighted
	refused
	emptied
	givingUp
)

func (p *Pool) afterLocked(e event) { p.after = append(p.after, e) }

func (e *event) happen(p *Pool) {
	switch e.kind {
	case openFailed:
		p.events.DialFailed(e.err)
	case hedging:
		p.events.Hedged()
	case hangUp:
		go e.conn.hangUp(e.reason) // ending TLS and HTTP/2 writes to the socket
	case ended:
		p.events.Closed(e.reason)
	case evicting:
		e.conn.pool.evict(e.conn)
	case sawClose:
		p.events.SawClose(e.idle, e.reason == CloseSensor)
	case sighted:
		e.conn.learner.SawOpen(e.conn.seen(e.at, e.idle, e.conn.proof()))
	case refused:
		p.events.Refused(e.err)
	case givingUp:
		e.apart.giveUp(errGivenUp)
	case emptied:
		p.opt.Emptied()
	}
}
