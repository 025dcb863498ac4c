package connpool

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// raceShows is how soon a request fails that met a connection being closed: it
// takes a round trip. Later failures are about the request.
const raceShows = time.Second

// resetsApart is how often a reset makes all idle connections suspicious at most. Once is
// enough when an upstream has started anew. Some upstreams reset connections because of
// a request, and clients could keep a pool empty by sending it.
const resetsApart = 10 * time.Second

// A Lease is the right to send one request on a connection. After RoundTrip it ends
// in exactly one of three ways: Done, if there is a response, Fail, if there is an
// error, or Unused, if RoundTrip was not called.
type Lease struct {
	grant
	Waited time.Duration // how long the request waited for it

	pool     *Pool
	bodyless bool
	unsent   bool
	start    time.Time
	canceler *canceler // nil: the request ends with its connection only
}

// HTTP2 tells what the connection speaks.
func (l *Lease) HTTP2() bool { return l.c.h2 }

// Age returns how long the connection has been open.
func (l *Lease) Age() time.Duration { return time.Since(l.c.opened) }

// Sent returns when the request was sent, which is at once.
func (l *Lease) Sent() time.Time { return l.start }

// ReadAt returns when something was last read from the connection.
func (l *Lease) ReadAt() time.Time { return l.c.net.ReadAt() }

// Connect returns how long it took to open the connection, TLS included.
func (l *Lease) Connect() time.Duration { return l.c.opened.Sub(l.c.dialed) }

// RoundTrip sends the request. One whose context is done is not sent.
func (l *Lease) RoundTrip(req *http.Request) (*http.Response, error) {
	c := l.c
	if ctx := req.Context(); ctx.Err() != nil {
		l.unsent = true
		return nil, context.Cause(ctx)
	}
	if l.First && !c.h2 && l.pool.cfg.Reuse && req.Header["Connection"] == nil {
		req = idletime.Asking(req)
	}
	if c.h2 && c.streams.Lasts(l.start, lasting) {
		req = l.cancelable(req)
	}
	resp, err := c.cc.RoundTrip(req)
	if l.canceler != nil {
		l.dropCanceler()
	}
	if c.h2 {
		c.streams.Ended(true)
	}
	return resp, err
}

// Unused ends the lease of a request that was not sent.
func (l *Lease) Unused() { l.pool.giveBack(l.c) }

// Done ends the lease as soon as the response, whose head arrived at the time given, is
// read to its end or its body is closed. What it says about its connection is noted.
func (l *Lease) Done(resp *http.Response, now time.Time) {
	c := l.c
	c.answered.Store(true)
	if l.Idle > 0 {
		c.learner.SawOpen(c.seen(l.start, l.Idle, idletime.Answered))
		c.rested.Store(max(c.rested.Load(), int32(l.Idle.Milliseconds())))
	}
	if !c.h2 {
		l.pool.noteResponse(c, resp, now)
		return
	}
	c.streams.NoteSettings()
	c.streams.NoteLimit()
	if l.bodyless {
		c.learner.Responded(l.start, now.Sub(l.start))
	}
	resp.Body = c.streams.Arrives(resp.Body, now)
	c.serveWaiters()
}

// noteResponse notes what an HTTP/1 response says about its connection.
func (p *Pool) noteResponse(c *conn, resp *http.Response, now time.Time) {
	d, announced := idletime.AnnouncedTimeout(resp.Header)
	if announced {
		c.learner.Announced(now, d)
	}
	leaves := resp.StatusCode == http.StatusSwitchingProtocols
	if !announced && !resp.Close && !leaves {
		return
	}
	p.lock()
	defer p.unlock()
	if leaves {
		if c.carries() {
			p.moveLocked(c, upgraded)
			p.startDialsLocked(now)
		}
		return
	}
	if announced {
		c.announced = idletime.Known(d)
		if c.is(idle) { // it was quicker than we are
			c.askLimitLocked(now)
			p.watchIdleLocked(c, now)
		}
	}
	if resp.Close && c.carries() {
		c.reason = CloseRequested
	}
}

// A Failure says what is known of a request that failed on a connection.
type Failure struct {
	replay.Failure
	Lost bool // the upstream has acknowledged nothing for over a second: the path drops everything
	// Silent says why the connection was given up, if that is for silence:
	// CloseUnacked, ClosePing or CloseSilent.
	Silent CloseReason

	overdue bool // the upstream owes an answer
	reset   bool // the upstream does not know the connection: it may have started anew
}

// Fail ends the lease of a request that failed with err; ours says that this was
// nothing the upstream did.
func (l *Lease) Fail(err error, ours bool) Failure {
	if l.unsent {
		l.Unused()
		return Failure{Failure: replay.Failure{Ours: true}}
	}
	c, now := l.c, time.Now()
	f := c.outcome(err)
	f.Ours = f.Ours || ours
	s := c.net.Silence(now, l.start)
	l.noteSilence(&f)
	f.overdue, f.Lost = s.Overdue(), !f.Responded && (s.Lost() || f.Silent == CloseUnacked)
	l.noteRace(&f, now)
	if f.Raced {
		c.learner.Raced(now)
	}
	l.pool.failed(c, now, l.Idle, f)
	if f.Lost && s.All && l.Reused && l.Limit > 0 {
		c.learner.LostInSilence(now, l.start, l.Idle, l.Limit)
	}
	return f
}

// noteRace completes what is known of a request that failed: did it meet the end of a
// connection that came out of the pool, and was that end due?
func (l *Lease) noteRace(f *Failure, now time.Time) {
	if !l.Reused || f.Ours || f.Responded || f.StreamOnly || now.Sub(l.start) >= raceShows {
		return
	}
	f.reset = l.c.net.Ending().Reset()
	f.Raced = f.Silent == "" && l.Limit > 0 && l.Idle >= l.Limit/2
}

// outcome says what the connection saw of a request that failed with err.
func (c *conn) outcome(err error) (f Failure) {
	if c.h2 {
		f.Refused = replay.WasRefused(err)
		_, reset := errors.AsType[http2.StreamError](err)
		f.StreamOnly = (reset || !f.Refused) && c.cc.Err() == nil
		return f
	}
	f.Written = c.net.Sent()
	f.Responded = c.net.Responded()
	f.Ours = !f.Written && c.cc.Available() == 1 // net/http did not like the request
	return f
}

// Confirm tells that a request that raced was answered on another connection: it
// was the connection, not the request.
func (l *Lease) Confirm(at time.Time) {
	l.c.learner.SawClose(l.c.ended(at, l.Idle, l.Idle))
}

// failed ends the lease of c after its request failed. net/http has closed an
// HTTP/1 connection then, unless it refused the request before using it.
func (p *Pool) failed(c *conn, now time.Time, age time.Duration, f Failure) {
	p.lock()
	defer p.unlock()
	switch {
	case f.Raced, f.Lost, f.Silent != "":
		p.suspectLocked(now, age)
	case f.reset && now.Sub(p.resetAt) >= resetsApart:
		p.resetAt = now
		p.suspectLocked(now, 0)
	}
	if c.h2 && (f.Lost || f.overdue) {
		p.retreatLocked(c)
	}
	if !f.Ours && !f.Responded && c.requests == 2 && age < idletime.AtOnce {
		c.countEndLocked(now, true)
	}
	p.endFailedLocked(c, now, f.Silent)
}

// endFailedLocked ends the lease of c, whose request failed, maybe for silence.
func (p *Pool) endFailedLocked(c *conn, now time.Time, silent CloseReason) {
	reason := cmp.Or(silent, CloseFailed)
	switch {
	case !c.carries():
	case c.h2 && !c.streams.LookForSettings():
		p.closeLocked(c, reason) // there may be nobody
	case c.h2:
		p.endStreamLocked(c, now, c.streams.LastEnd(now))
	case c.cc.Available() == 1 && c.net.Waiting() && !c.net.Sent():
		p.unusedLocked(c, now)
	default:
		p.closeLocked(c, reason)
	}
}

// streamRead ends a lease of an HTTP/2 connection: its response is read.
func (c *conn) streamRead() {
	p := c.pool
	p.lock()
	defer p.unlock()
	if now := time.Now(); c.carries() {
		p.endStreamLocked(c, now, c.streams.LastEnd(now))
	}
}
