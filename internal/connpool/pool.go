package connpool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/demand"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/linked"
	"github.com/caddy-connreuse/connreuse/internal/memory"
	"github.com/caddy-connreuse/connreuse/internal/stack"
)

var (
	ErrQueueFull      = errors.New("waiting for a connection: too many requests wait already (max_pending)")
	ErrAcquireTimeout = errors.New("waiting for a connection: none became available in time (acquire_timeout)")

	// ErrGone tells that the pool was emptied and must not be used any more.
	ErrGone = errors.New("acquiring connection: the pool is gone")
)

// lookAfter is the idle age from which a look into the socket is worth its system call.
// A younger connection was looked at when it became idle.
const lookAfter = time.Millisecond

// Options make a pool.
type Options struct {
	Memory   *memory.Upstream
	Protocol memory.Protocol // Negotiated, unless there is only one
	TLS      bool
	Events   Events
	// Dial opens a connection. It must not take for ever.
	Dial func(*Dial) (Dialed, error)
	// Emptied is called when the pool holds nothing any more; Acquire returns
	// ErrGone from then on. Clients can choose what makes a pool.
	Emptied func()
	WarmFor time.Duration // how long after its last request MinIdle are kept; zero: an hour
}

// A Pool holds the connections that are as good as each other for a request. Its
// rules:
//
//   - A request takes the youngest idle connection that is younger than its
//     idle limit, or a free stream of a busy HTTP/2 connection.
//   - Otherwise it waits, in order of arrival, for whatever comes first: a
//     connection that becomes free, or a new one.
type Pool struct {
	group   *Group
	cfg     *Config
	opt     Options
	memory  *memory.Upstream
	events  Events
	waiters atomic.Int32 // requests in a queue, or about to enter it
	pinned  atomic.Int32 // len(pins)

	mu      sync.Mutex
	lists   [numLists]linked.List[conn]
	queue   queue
	pins    map[*Owner]*pin
	after   []func()
	dials   demand.Dials
	warm    demand.Warm
	idle    demand.Idle
	firsts  firsts
	timer   *time.Timer
	timerAt time.Time // zero: not armed
	lookAt  time.Time // when to look at the sensor again
	resetAt time.Time // when a reset last made idle connections suspicious

	listenAt time.Time // when to listen to those that wait for a response; zero: none does
	gone     bool
}

// NewPool returns a pool that belongs to g.
func (g *Group) NewPool(opt Options) *Pool {
	return &Pool{group: g, cfg: &g.cfg, opt: opt, memory: opt.Memory, events: opt.Events}
}

func (p *Pool) lock() { p.mu.Lock() }

// Acquire leases a connection for one request, and describes it in l, which is the
// caller's, so that nothing of it is copied on the way. It waits for as long as dials
// take, in a full pool for AcquireTimeout, and not longer than ctx allows.
func (p *Pool) Acquire(ctx context.Context, n Need, l *Lease) error {
	start := time.Now()
	if ctx.Err() != nil {
		p.lock()
		p.tidyLocked(start) // it may have been made for this request
		p.unlock()
		return context.Cause(ctx)
	}
	*l = Lease{pool: p, bodyless: n.Bodyless}
	for now, again := start, false; ; now, again = time.Now(), true {
		w := p.acquire(now, n, again, &l.grant)
		if w != nil {
			p.await(ctx, start, w, &l.grant)
			p.waiters.Add(-1)
		}
		if l.lookSocket && !l.c.net.LooksAlive(l.c.h2) {
			p.distrust(l.c)
			continue
		}
		if l.lookPath && l.c.deaf(l.Idle) {
			p.avoid(l.c)
			continue
		}
		if w != nil {
			now = time.Now()
			l.Waited = now.Sub(start)
			p.events.Waited(l.Waited)
		}
		l.start = now
		return l.err
	}
}

// acquire grants what is there, or else returns a waiter that is in the queue; again
// says that the request has waited before.
func (p *Pool) acquire(now time.Time, n Need, again bool, g *grant) *waiter {
	stack.GrowForLock()
	p.lock()
	defer p.unlock()
	*g = grant{}
	if p.gone {
		g.err = ErrGone
		return nil
	}
	p.warm.Used(now, p.group.renewals.Load())
	if n.Owner != nil {
		if w := p.acquireOwnLocked(now, &n, g); w != nil || g.c != nil {
			return w
		}
	}
	if n.Freshness == FreshIfRoom {
		n.Freshness = Fresh
		if p.fullLocked() {
			n.Freshness = Any
		}
	}
	if p.takeLocked(now, n, g) {
		return nil
	}
	// From here on, whoever frees a connection sees that someone waits. It may
	// have happened since we looked, so look again.
	p.waiters.Add(1)
	if p.takeLocked(now, n, g) {
		p.waiters.Add(-1)
		return nil
	}
	if p.fullLocked() && !n.Probe {
		if p.queue.Len() >= p.cfg.MaxPending {
			p.waiters.Add(-1)
			p.afterLocked(func() { p.events.Refused(ErrQueueFull) })
			g.err = ErrQueueFull
			return nil
		}
		p.makeRoomLocked(now)
	}
	p.clearForDialLocked(now)
	w := &waiter{need: n, since: now, grant: make(chan grant, 1)}
	if n.Owner != nil {
		w.pin = new(pin)
		p.setPinLocked(n.Owner, w.pin)
	}
	if again || n.Probe {
		p.queue.pushFront(w)
	} else {
		p.queue.push(w)
	}
	p.startDialsLocked(now)
	return w
}

// await waits for w to be granted something.
func (p *Pool) await(ctx context.Context, start time.Time, w *waiter, g *grant) {
	timeout := time.NewTimer(p.cfg.AcquireTimeout - time.Since(start))
	defer timeout.Stop()
	for {
		var err error
		select {
		case *g = <-w.grant:
			return
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-timeout.C:
			err = ErrAcquireTimeout
		}
		p.lock()
		if err == ErrAcquireTimeout && (w.inPinLocked() || p.dialsForLocked(w)) {
			p.unlock()
			// Dials have timeouts of their own, and may serve others. The owner waits for itself.
			timeout.Reset(min(p.cfg.AcquireTimeout, time.Second))
			continue
		}
		if p.leaveLocked(w) {
			if err == ErrAcquireTimeout {
				p.afterLocked(func() { p.events.Refused(ErrAcquireTimeout) })
			}
			p.unlock()
			g.err = err
			return
		}
		p.unlock()
		// It was granted something at this very moment.
		*g = <-w.grant
		if err != ErrAcquireTimeout && g.err == nil {
			p.giveBack(g.c)
			*g = grant{err: err}
		}
		return
	}
}

// fullLocked tells whether max_conns_per_host leaves no room for another dial. An
// active health check that waits has one connection beyond it.
func (p *Pool) fullLocked() bool {
	most := p.cfg.MaxConns
	return most > 0 && p.countedLocked() >= most+min(p.queue.probes, 1)
}

// takeLocked leases a connection that is there, if one is good enough for n: an
// HTTP/2 connection in use, else the youngest idle one.
func (p *Pool) takeLocked(now time.Time, n Need, g *grant) bool {
	if n.Freshness == Fresh {
		return false
	}
	for c := p.lists[listStreams].Last(); c != nil; {
		before := c.place.Prev()
		if p.tryStreamLocked(c, now, n, g) {
			return true
		}
		c = before
	}
	used, unused := p.lists[idle].Last(), p.lists[fresh].Last()
	for used != nil || unused != nil {
		var c *conn
		if unused == nil || used != nil && !used.idleAt.Before(unused.idleAt) {
			c, used = used, used.place.Prev()
		} else {
			c, unused = unused, unused.place.Prev()
		}
		if p.fitLocked(c, now) && p.tryIdleLocked(c, now, n, g) {
			return true
		}
	}
	return false
}

// tryStreamLocked leases a stream of the busy HTTP/2 connection c, if it has one to
// give. One whose streams have all ended, though a client still reads, is as old
// for its upstream as an idle one.
func (p *Pool) tryStreamLocked(c *conn, now time.Time, n Need, g *grant) bool {
	if p.drainLocked(c, now) || c.owner != n.Owner || !c.reserveLocked() {
		return false
	}
	c.askLimitLocked(now)
	var age time.Duration
	if since, known := c.streams.AllEndedAt(); known {
		if age = elapsed(since, now); !young(age, &c.limit, n) {
			return false
		}
	}
	g.ofLocked(c, age)
	g.lookPath = g.lookPath || c.quietLocked(now)
	p.leaseLocked(c, now, n)
	return true
}

// tryIdleLocked leases the idle connection c, which is fit for use, if it is good enough
// for n.
func (p *Pool) tryIdleLocked(c *conn, now time.Time, n Need, g *grant) bool {
	if c.suspect || c.owner != n.Owner {
		return false
	}
	age := c.ageLocked(now)
	if !young(age, &c.limit, n) {
		c.sightLocked(now, age)
		return false
	}
	if c.untried && c.requests == 0 && !n.Replayable {
		return false
	}
	if !c.h2 && !c.net.Waiting() {
		return false // something has arrived, net/http will see what
	}
	if !c.reserveLocked() {
		if !c.h2 || c.cc.Err() != nil {
			p.closeLocked(c, CloseFailed)
		}
		return false
	}
	g.ofLocked(c, age)
	p.leaseLocked(c, now, n)
	return true
}

// leaseLocked hands c, with a reservation, to a request.
func (p *Pool) leaseLocked(c *conn, now time.Time, n Need) {
	if c.leases > 0 {
		p.lists[c.listOfLocked(busy)].Touch(&c.place)
	} else {
		c.idledFor, c.lost = c.ageLocked(now), false
		c.net.Take(now, n.Bodyless && !c.h2)
		p.moveLocked(c, busy)
		p.idle.InUse(now, p.inLocked(busy))
		p.watchFirstLocked(c, now)
	}
	if c.leases == 0 && c.requests == 1 && c.ageLocked(now) >= idletime.AtOnce {
		c.countEndLocked(now, false)
	}
	if c.owner != n.Owner && (c.owner != nil || n.Bound) && Strict {
		panic("connpool: a connection carries the request of another")
	}
	c.leases++
	c.requests++
	c.login.Sent(n.Bound)
	c.takenAt = now
	p.listenLocked(c, now)
}
