package upstreampool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
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
// Lock order: core.mu, pool.mu, then learner.mu or the locks of net/http.
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
	sensed  sensing
	stats   stats
}

// sensing is how the sensor is watched.
type sensing struct {
	due time.Time // of the next look
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
			countRefused(p.label, "queue_full")
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
		if err == errAcquireTimeout && w.queued && p.dials > 0 && !p.full() {
			// A dial for it is under way, and has a timeout of its own.
			p.mu.Unlock()
			timeout.Reset(p.core.cfg.acquireTimeout)
			continue
		}
		if p.queue.remove(w) {
			if err == errAcquireTimeout {
				p.stats.refused++
			}
			p.mu.Unlock()
			if err == errAcquireTimeout {
				countRefused(p.label, "timeout")
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

// take leases a connection that is there, if one is good enough for n.
func (p *pool) take(now time.Time, n need) (grant, bool) {
	for _, c := range slices.Backward(p.active) {
		if _, worn := c.worn(now); !worn && c.reserve() {
			p.lease(c, now, n)
			return grant{c: c, reused: true, limit: c.limit(now)}, true
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
	if limit.Source == SourceAssumed && !n.replayable && age >= freshEnough {
		return grant{}, false
	}
	if !c.h2 && !c.net.reading.Load() {
		return grant{}, false // something has arrived, net/http will see what
	}
	if age >= lookAfter && !c.net.quiet(c.h2) {
		return grant{}, false // likewise
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
		c.net.take(now, p.core.cfg.base.ReadTimeout, n.bodyless && !c.h2)
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
	c.become(stateClosing)
	c.reason = reason
	c.close()
}

func (p *pool) leaveSensor(c *conn) {
	if p.sensor == c {
		p.sensor = nil
		c.learner.endSensor()
	}
}

// retire takes an idle connection that has reached its limit out of use: it
// becomes the sensor if one is wanted and the connection has carried a
// request, and is closed otherwise.
func (p *pool) retire(c *conn, now time.Time, age time.Duration, limit Limit) {
	late := age - limit.Value
	full := p.core.cfg.maxConns > 0 && p.open >= p.core.cfg.maxConns
	if p.sensor != nil || full || c.requests == 0 || late > tolerance(age) ||
		p.core.draining.Load() || !c.learner.startSensor(now) {
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
	p.sensed.due = now.Add(max(250*time.Millisecond, c.age(now)/20))
	return p.sensed.due
}

// returned takes back an HTTP/1 connection whose response is complete.
func (p *pool) returned(c *conn) {
	p.mu.Lock()
	if !c.is(stateBusy) {
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

// streamEnded takes back one stream of an HTTP/2 connection.
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
	c.idleAt = now
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
	if c.leases > 1 {
		c.leases--
		return
	}
	p.putIdle(c, time.Now())
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
	if !p.core.cfg.reuse {
		p.doom(c, CloseRequested)
		return
	}
	age, limit := c.age(now), c.limit(now)
	if age >= limit.Value {
		p.retire(c, now, age, limit)
		return
	}
	c.allowed = limit.Value
	p.serve(c, now)
	if c.leases > 0 {
		return
	}
	if p.queue.n > 0 && p.full() {
		// Those that still wait need a fresh connection.
		p.doom(c, CloseReplaced)
		return
	}
	if len(p.idle) > p.core.cfg.maxIdlePerHost || p.core.cfg.maxIdle > 0 && p.core.idle.Load() > int64(p.core.cfg.maxIdle) {
		p.doom(p.idle[0], CloseMaxIdle)
	}
	p.arm(now.Add(limit.Value - age))
}

// serve hands c to those that wait, as long as it can take requests.
func (p *pool) serve(c *conn, now time.Time) {
	for w := p.queue.first; w != nil; {
		next := w.next
		if !w.need.fresh {
			var g grant
			ok := false
			switch {
			case c.is(stateIdle):
				g, ok = p.tryIdle(c, now, w.need)
			case c.is(stateBusy) && c.h2:
				if _, worn := c.worn(now); !worn && c.reserve() {
					p.lease(c, now, w.need)
					g, ok = grant{c: c, reused: true, limit: c.limit(now)}, true
				}
			}
			switch {
			case ok:
				p.queue.remove(w)
				w.grant <- g
			case !c.is(stateIdle):
				return // it has no free stream, or is closing
			}
		}
		w = next
	}
}

// offer serves those that wait with streams of c that became free.
func (p *pool) offer(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.is(stateIdle) || c.is(stateBusy) {
		p.serve(c, time.Now())
	}
}

// opened adds the outcome of a dial.
func (p *pool) opened(c *conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.dials--
	if err != nil {
		p.dialFailed(now, err)
		p.startDials(now)
		p.tidy()
		return
	}
	p.open++
	p.stats.opened++
	c.idleAt = c.opened
	c.become(stateIdle)
	p.idle = append(p.idle, c)
	p.core.idle.Add(1)
	if c.net.closed.Load() {
		go p.removed(c) // before we could be told
		return
	}
	// Those that wait get it as a fresh connection, whatever its protocol.
	for w := p.queue.first; w != nil && (c.h2 || c.leases == 0); w = p.queue.first {
		if !c.reserve() {
			break
		}
		p.lease(c, now, w.need)
		p.queue.remove(w)
		w.grant <- grant{c: c}
	}
	if c.leases == 0 {
		if p.core.draining.Load() {
			p.doom(c, CloseDrained)
		}
		c.allowed = c.limit(now).Value
		p.arm(now.Add(c.allowed))
	}
	p.startDials(now)
}

// dialFailed tells a waiter: each has a dial of its own, unless one dial was
// for all of them.
func (p *pool) dialFailed(now time.Time, err error) {
	p.stats.dialErrors++
	p.retryAt = now.Add(redialAfter)
	if p.missing(now) > 0 {
		p.arm(p.retryAt)
	}
	all := p.oneDial()
	for w := p.queue.first; w != nil; w = p.queue.first {
		p.queue.remove(w)
		w.grant <- grant{err: err}
		if !all {
			break
		}
	}
}

// oneDial tells whether one dial serves many requests.
func (p *pool) oneDial() bool {
	if p.key.h1 {
		return false
	}
	if p.key.scheme == "http" {
		return p.core.cfg.h2c
	}
	return p.up.speaksH2.Load()
}

// startDials starts the dials that those that wait, and min_idle, need.
func (p *pool) startDials(now time.Time) {
	want := max(0, p.queue.n-int(p.returning.Load()))
	if p.oneDial() {
		want = min(want, 1)
	}
	if warm := p.missing(now); warm > 0 && !now.Before(p.retryAt) {
		want += warm
	}
	for p.dials < want && !p.full() {
		p.dials++
		go func() { p.opened(p.dial(p)) }()
	}
}

// missing returns how many idle connections min_idle lacks.
func (p *pool) missing(now time.Time) int {
	if p.core.cfg.minIdle == 0 || p.core.draining.Load() || now.Sub(p.usedAt) >= warmFor {
		return 0
	}
	return p.core.cfg.minIdle - len(p.idle)
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
			c.allowed = limit.Value
			p.arm(now.Add(limit.Value - age))
			if c.life > 0 {
				p.arm(now.Add(c.life - elapsed(c.opened, now)))
			}
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
	switch late := elapsed(p.sensed.due, now); {
	case late > tolerance(age):
		p.doom(c, CloseSensor) // we were not there to see
	case now.Before(p.sensed.due):
		p.arm(p.sensed.due)
	case age >= p.core.cfg.base.ceiling():
		c.learner.outlived(now)
		p.doom(c, CloseSensor)
	default:
		c.alive = now
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
	if c.is(stateSensor) {
		if elapsed(c.alive, at) > age/20+250*time.Millisecond+tolerance(age) {
			return // seen too late
		}
	} else if age >= c.allowed+tolerance(age) {
		return // it should have been retired long ago: we were suspended
	}
	c.learner.sawClose(at, age)
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
	c.become(stateClosed)
	p.stats.closed(reason)
	p.startDials(time.Now())
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

// drain closes what is idle; what is busy is closed when it becomes idle.
func (p *pool) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		p.doom(p.idle[len(p.idle)-1], CloseDrained)
	}
	if p.sensor != nil {
		p.doom(p.sensor, CloseDrained)
	}
	p.tidy()
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
