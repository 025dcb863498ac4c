package upstreampool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errQueueFull      = errors.New("waiting for a connection: too many requests wait already (max_pending)")
	errAcquireTimeout = errors.New("waiting for a connection: none became available in time (acquire_timeout)")
)

// lookAfter is the idle age from which a look into the socket is worth its
// system call; there was one when the connection became idle.
const lookAfter = time.Millisecond

// A pool holds the connections of one key. Its rules:
//
//   - A request takes the youngest idle connection that is younger than its
//     idle limit, or a free stream of a busy HTTP/2 connection.
//   - Otherwise it waits, in order of arrival, for whatever comes first: a
//     connection that becomes free, or a new one. New ones are dialed for as
//     many as wait; towards a server known to speak HTTP/2, one at a time.
//   - Nothing is closed and nobody is called with the lock held, but for
//     methods of [http.ClientConn] that do not block.
//
// Lock order: core.mu, pool.mu, then the learner's or the locks of net/http.
type pool struct {
	core *core
	key  key
	up   *upstream
	dial func(*pool) (*conn, error)
	// label names the upstream in metrics, where it is "other" if there are
	// too many; name always names it.
	label, name string

	requests  requestCounters
	returning atomic.Int32 // HTTP/1 connections about to be idle
	waiting   atomic.Int32 // requests in the queue, or about to enter it

	mu      sync.Mutex
	idle    []*conn // by when they became idle, youngest last
	active  []*conn // HTTP/2 connections with requests, latest use last
	sensor  *conn
	open    int // connections that are not upgraded
	busy    int
	dials   int
	queue   queue
	gone    bool // removed from the core
	timer   *time.Timer
	timerAt time.Time // zero: not armed
	usedAt  time.Time // last request
	retryAt time.Time // no dials for min_idle before
	lookAt  time.Time // when to look at the sensor again
	stats   stats
}

// get returns a connection for one request, with a reservation.
func (p *pool) get(ctx context.Context, n need) grant {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return grant{err: errPoolGone}
	}
	now := time.Now()
	p.usedAt = now
	n.fresh = n.fresh || n.freshIfRoom && !p.full()
	if !n.fresh {
		if g, ok := p.take(now, n); ok {
			p.mu.Unlock()
			return g
		}
	}
	// From here on, whoever frees a connection sees that someone waits. It may
	// have happened since we looked, so look again.
	p.waiting.Add(1)
	if !n.fresh {
		if g, ok := p.take(now, n); ok {
			p.waiting.Add(-1)
			p.mu.Unlock()
			return g
		}
	}
	if p.full() {
		p.makeRoom()
		if p.queue.n >= p.core.cfg.maxPending {
			p.waiting.Add(-1)
			p.stats.refused++
			p.mu.Unlock()
			p.requests.refusedQueue.Inc()
			return grant{err: errQueueFull}
		}
	}
	w := &waiter{need: n, grant: make(chan grant, 1)}
	p.queue.push(w)
	p.startDials(now)
	p.mu.Unlock()
	g := p.await(ctx, w)
	p.waiting.Add(-1)
	countWaited(p.label, time.Since(now))
	return g
}

// errPoolGone makes the caller look up the pool again.
var errPoolGone = errors.New("pool was removed")

// await waits for w to be granted something.
func (p *pool) await(ctx context.Context, w *waiter) grant {
	timeout := time.NewTimer(p.core.cfg.acquireTimeout)
	defer timeout.Stop()
	for {
		var err error
		select {
		case g := <-w.grant:
			return g
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-timeout.C:
			err = errAcquireTimeout
		}
		p.mu.Lock()
		if err == errAcquireTimeout && p.dialing(w) {
			p.mu.Unlock() // dials have timeouts of their own
			timeout.Reset(p.core.cfg.acquireTimeout)
			continue
		}
		if p.queue.remove(w) {
			if err == errAcquireTimeout {
				p.stats.refused++
			}
			p.mu.Unlock()
			if err == errAcquireTimeout {
				p.requests.refusedTimeout.Inc()
			}
			return grant{err: err}
		}
		p.mu.Unlock()
		// It was granted something at this very moment.
		g := <-w.grant
		if err == errAcquireTimeout || g.err != nil {
			return g
		}
		p.giveBack(g.c)
		return grant{err: err}
	}
}

// full tells whether max_conns_per_host leaves no room for another dial.
func (p *pool) full() bool {
	return p.core.cfg.maxConns > 0 && p.open+p.dials >= p.core.cfg.maxConns
}

// makeRoom closes a connection that takes up a place and serves nobody: the
// sensor, or else the oldest idle connection, which was not good enough for the
// request at hand. The place becomes free when it is closed.
func (p *pool) makeRoom() {
	switch {
	case p.sensor != nil:
		p.doom(p.sensor, CloseSensor)
	case len(p.idle) > 0:
		p.doom(p.idle[0], CloseReplaced)
	}
}

// coming returns how many connections are being dialed, or closed, which makes
// room for as many.
func (p *pool) coming() int {
	used := p.busy + len(p.idle)
	if p.sensor != nil {
		used++
	}
	return p.dials + p.open - used
}

// short tells whether more wait than connections are coming.
func (p *pool) short() bool {
	if p.oneDial() {
		return p.queue.n > 0 && p.coming() == 0
	}
	return p.queue.n > p.coming()
}

// take leases a connection that is there, if one is good enough for n.
func (p *pool) take(now time.Time, n need) (grant, bool) {
	for _, c := range slices.Backward(p.active) {
		if g, ok := p.tryActive(c, now, n); ok {
			return g, true
		}
	}
	for i := len(p.idle) - 1; i >= 0; i-- {
		c := p.idle[i]
		g, ok := p.tryIdle(c, now, n)
		if ok {
			return g, true
		}
		i = min(i, len(p.idle)) // it may have been taken out
	}
	return grant{}, false
}

// tryActive leases a stream of the busy HTTP/2 connection c, if it has one to give.
func (p *pool) tryActive(c *conn, now time.Time, n need) (grant, bool) {
	if _, worn := c.worn(now); worn || !c.reserve() {
		return grant{}, false
	}
	p.lease(c, now, n)
	return grant{c: c, reused: true, limit: c.limit(now)}, true
}

// tryIdle leases the idle connection c if it is good enough for n, and retires
// it if it is for nobody.
func (p *pool) tryIdle(c *conn, now time.Time, n need) (grant, bool) {
	age, limit := c.age(now), c.limit(now)
	if reason, worn := c.worn(now); worn {
		p.doom(c, reason)
		return grant{}, false
	}
	if age >= limit.Value {
		p.retire(c, now, age, limit)
		return grant{}, false
	}
	if !n.replayable && age >= limit.Unreplayable {
		return grant{}, false
	}
	if age >= lookAfter && !c.net.quiet(c.h2) {
		return grant{}, false // something has arrived, net/http will see what
	}
	if !c.h2 && !c.net.reading.Load() {
		return grant{}, false // likewise, and it is out of the socket already
	}
	if !c.reserve() {
		p.doom(c, CloseFailed)
		return grant{}, false
	}
	p.lease(c, now, n)
	return grant{c: c, reused: true, idle: age, limit: limit}, true
}

// lease hands c, with a reservation, to a request.
func (p *pool) lease(c *conn, now time.Time, n need) {
	switch {
	case c.leases > 0: // HTTP/2, in active already
		i := slices.Index(p.active, c)
		copy(p.active[i:], p.active[i+1:])
		p.active[len(p.active)-1] = c
	default:
		p.leaveIdle(c)
		c.net.take(now, n.bodyless && !c.h2)
		c.become(stateBusy)
		p.busy++
		if c.h2 {
			p.active = append(p.active, c)
		}
	}
	c.leases++
	c.requests++
	c.takenAt = now
}

// leaveIdle takes c out of the idle list, if it is there.
func (p *pool) leaveIdle(c *conn) {
	if !c.is(stateIdle) {
		return
	}
	n := len(p.idle)
	i := n - 1
	for i >= 0 && p.idle[i] != c {
		i--
	}
	if i < 0 {
		return
	}
	copy(p.idle[i:], p.idle[i+1:])
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	p.core.idle.Add(-1)
}

// leaveBusy takes c out of the busy ones.
func (p *pool) leaveBusy(c *conn) {
	if !c.is(stateBusy) {
		return
	}
	p.busy--
	if i := slices.Index(p.active, c); i >= 0 {
		p.active = slices.Delete(p.active, i, i+1)
	}
}

// doom closes c for the given reason. It must not be upgraded or closed.
func (p *pool) doom(c *conn, reason CloseReason) {
	if c.is(stateClosing) || c.is(stateClosed) {
		return
	}
	p.leaveIdle(c)
	p.leaveBusy(c)
	p.leaveSensor(c)
	p.lost(c, time.Now())
	c.become(stateClosing)
	c.reason = reason
	c.close()
}

func (p *pool) leaveSensor(c *conn) {
	if p.sensor == c {
		p.sensor = nil
		c.learner.EndSensor()
	}
}

// returned takes back an HTTP/1 connection whose response is complete.
func (p *pool) returned(c *conn) {
	p.mu.Lock()
	if !c.complete() { // it was given back, and may have been taken again
		p.mu.Unlock()
		return
	}
	// The upstream's clock started when it had sent the response, which is not
	// before it had the request, and not before our last wait for data ended.
	c.idleAt = c.takenAt
	if c.net.waitedAt.After(c.idleAt) {
		c.idleAt = c.net.waitedAt
	}
	now := time.Now()
	p.putIdle(c, now)
	p.startDials(now) // if it was good enough for nobody
	p.mu.Unlock()
}

// streamEnded takes back one stream of an HTTP/2 connection, whose response was
// read to its end or else given up.
func (p *pool) streamEnded(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.is(stateBusy) {
		p.endStream(c)
	}
}

func (p *pool) endStream(c *conn) {
	now := time.Now()
	if c.leases--; c.leases > 0 {
		p.serve(c, now)
		return
	}
	c.idleAt = c.lastEnd(now)
	p.putIdle(c, now)
}

// giveBack takes back a connection whose reservation was not used. It has been
// idle for as long as before.
func (p *pool) giveBack(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.is(stateBusy) {
		return
	}
	if !c.h2 {
		c.cc.Release()
	}
	p.unused(c)
}

// unused undoes a lease whose reservation is gone already.
func (p *pool) unused(c *conn) {
	c.requests--
	now := time.Now()
	if c.leases--; c.leases > 0 {
		p.serve(c, now)
		return
	}
	if c.h2 {
		c.idleAt = c.lastEnd(c.idleAt) // others may have had streams meanwhile
	}
	p.putIdle(c, now)
	p.startDials(now) // it was on its way back, and may be good enough for nobody
}

// putIdle makes a connection without requests available, or closes it.
func (p *pool) putIdle(c *conn, now time.Time) {
	p.leaveBusy(c)
	c.leases = 0
	c.become(stateIdle)
	p.idle = append(p.idle, c)
	p.core.idle.Add(1)

	if reason, worn := c.worn(now); worn {
		p.doom(c, reason)
		return
	}
	age, limit := c.age(now), c.limit(now)
	if age >= limit.Value {
		p.retire(c, now, age, limit)
		return
	}
	p.serve(c, now)
	if !c.is(stateIdle) {
		return
	}
	if p.full() && p.short() {
		// Those that still wait need a fresh connection.
		p.doom(c, CloseReplaced)
		return
	}
	p.trim()
	p.watchIdle(c, now, age, limit)
}

// trim closes the oldest idle connection if there are too many.
func (p *pool) trim() {
	cfg := &p.core.cfg
	if len(p.idle) > cfg.maxIdlePerHost || cfg.maxIdle > 0 && p.core.idle.Load() > int64(cfg.maxIdle) {
		p.doom(p.idle[0], CloseMaxIdle)
	}
}

// serve hands c to those that wait, as long as it can take requests. In a full
// pool, an idle connection that is not good enough for the first of them makes
// room for one that is: later ones could take every connection there is.
func (p *pool) serve(c *conn, now time.Time) {
	for w := p.queue.first; w != nil; {
		next := w.next
		var g grant
		ok := false
		switch {
		case w.need.fresh:
		case c.is(stateIdle):
			g, ok = p.tryIdle(c, now, w.need)
		case c.is(stateBusy) && c.h2:
			g, ok = p.tryActive(c, now, w.need)
		}
		switch {
		case ok:
			p.queue.remove(w)
			w.grant <- g
		case c.is(stateIdle):
			if w.prev == nil && p.full() && p.coming() == 0 {
				p.doom(c, CloseReplaced)
				return
			}
		case !w.need.fresh:
			return // it has no free stream, or is closing
		}
		w = next
	}
}

// offer serves those that wait with c, or with new connections.
func (p *pool) offer(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if c.is(stateIdle) || c.is(stateBusy) {
		p.serve(c, now)
	}
	p.startDials(now)
}

// settle ends the lease of c after its request failed. net/http has closed an
// HTTP/1 connection then, unless it refused the request before using it.
func (p *pool) settle(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.is(stateBusy) {
		return
	}
	switch {
	case c.h2:
		p.endStream(c)
	case c.cc.Available() == 1 && c.net.reading.Load() && !c.net.sent.Load():
		p.unused(c)
	default:
		p.doom(c, CloseFailed)
	}
}
