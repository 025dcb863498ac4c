package upstreampool

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// connState is where a connection is in its life. The values are labels of
// metrics and part of the admin API.
type connState uint32

const (
	stateDialing  connState = iota // not handed out yet
	stateIdle                      // carries no request, waits in the pool
	stateBusy                      // carries at least one request
	stateSensor                    // set aside to see when the upstream closes it
	stateClosing                   // we are closing it
	stateUpgraded                  // left the pool with a 101 response
	stateClosed
)

var stateNames = [...]string{"dialing", "idle", "busy", "sensor", "closing", "upgraded", "closed"}

// A CloseReason says why a connection was closed. The values are labels of
// metrics.
type CloseReason string

const (
	CloseIdleLimit   CloseReason = "idle_limit"       // idle for as long as is safe
	CloseUpstream    CloseReason = "upstream"         // the upstream closed it while it was idle
	CloseRequested   CloseReason = "connection_close" // a Connection: close, or HTTP/1.0
	CloseFailed      CloseReason = "failed"           // during a request
	CloseSurplus     CloseReason = "surplus_bytes"    // the upstream sent what nobody asked for
	CloseMaxRequests CloseReason = "max_requests"
	CloseMaxLifetime CloseReason = "max_lifetime"
	CloseMaxIdle     CloseReason = "max_idle_conns"
	CloseReadTimeout CloseReason = "read_timeout"
	CloseReplaced    CloseReason = "replaced" // to make room under max_conns_per_host
	CloseDrained     CloseReason = "drained"  // its configuration is gone, or an operator asked for it
	CloseSensor      CloseReason = "sensor"   // a sensor that has seen enough
	CloseUpgraded    CloseReason = "upgraded" // it left the pool as another protocol
)

// A conn is one connection of a pool.
type conn struct {
	net     netConn
	pool    *pool
	learner *idletime.Learner
	cc      *http.ClientConn
	h2      bool
	opened  time.Time

	negotiated string        // by ALPN, where we did the handshake
	life       time.Duration // max_lifetime with its jitter; 0: unlimited

	// Written with the pool's lock held. Read without it to find out cheaply
	// that there is nothing to do.
	state     atomic.Uint32
	returning atomic.Bool

	answered atomic.Int32 // HTTP/2: leases whose response has begun to arrive

	endedMu   sync.Mutex
	streaming bool      // HTTP/2: a stream began since endedAt was noted
	endedAt   time.Time // when the last stream ended

	// Guarded by the pool's lock.
	leases    int // requests it carries
	requests  int // requests it has carried
	takenAt   time.Time
	idleAt    time.Time
	announced idletime.Optional // by a Keep-Alive field of this connection
	reason    CloseReason       // why we close it
	allowed   time.Duration     // idle: the limit when it was last looked at
	alive     time.Time         // sensor: last time it was seen open
}

func (c *conn) is(s connState) bool { return connState(c.state.Load()) == s }

// age returns for how long the connection has been idle: the larger of the
// monotonic and the wall clock's answer, since either may have stood still
// (process or machine suspended).
func (c *conn) age(now time.Time) time.Duration {
	return elapsed(c.idleAt, now)
}

func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// expired tells whether max_lifetime is over.
func (c *conn) expired(now time.Time) bool {
	return c.life > 0 && elapsed(c.opened, now) >= c.life
}

// spent tells whether the connection has carried all its requests.
func (c *conn) spent() bool {
	most := c.pool.core.cfg.maxRequests
	return most > 0 && c.requests >= most
}

// worn tells whether the connection may carry no further request, and why.
func (c *conn) worn(now time.Time) (CloseReason, bool) {
	switch {
	case c.spent() && !c.pool.core.cfg.reuse:
		return CloseRequested, true
	case c.spent():
		return CloseMaxRequests, true
	case c.expired(now):
		return CloseMaxLifetime, true
	case c.pool.core.draining.Load():
		return CloseDrained, true
	}
	return "", false
}

// limit returns the connection's idle limit.
func (c *conn) limit(now time.Time) idletime.Limit {
	if c.requests == 0 {
		return c.learner.UnusedLimit(now)
	}
	return c.learner.Limit(now, c.announced)
}

// seen returns the observation that the connection was open when it had been idle
// for age.
func (c *conn) seen(now time.Time, age time.Duration, p idletime.Proof) idletime.Sighting {
	return idletime.Sighting{At: now, Idle: age, Opened: c.opened, Proof: p}
}

// reserve makes sure that one request can be sent without waiting.
//
// For HTTP/2 the pool does its own counting. Reservations of x/net deadlock when
// there are more than the SETTINGS that arrive later allow: each request waits
// for the number of streams and reservations to fall below the limit, and the
// reservations are those of the requests that wait. A request without one just
// waits for a stream. Until the SETTINGS are here, the limit that the upstream
// had before is as good a guess as there is.
//
// A response that has arrived holds no stream, however slowly it is read. Which
// ones have is not known: of those that have begun to arrive, as many may still
// be under way as there are streams in flight.
func (c *conn) reserve() bool {
	if !c.h2 {
		return c.cc.Reserve() == nil
	}
	answered := int(c.answered.Load()) // first: what begins to arrive now is counted twice, not left out
	available, inFlight := c.cc.Available(), c.cc.InFlight()
	limit := available + inFlight
	if before := int(c.pool.up.streams.Load()); c.requests == c.leases && before > 0 {
		limit = min(limit, before)
	}
	return available > 0 && c.leases-answered+min(answered, inFlight) < limit
}

// complete tells whether an HTTP/1 connection is done with its response.
func (c *conn) complete() bool { return c.is(stateBusy) && c.cc.Available() == 1 }

// readEntered runs whenever net/http is about to wait for data. It tells whether
// that is to be watched: outOfData runs when the socket has none.
//
// An HTTP/1 connection is available again exactly then. The response was read to
// its end and everything above the socket is out of data, so surplus bytes of the
// upstream, which would be taken for the next answer (RFC 9112 section 9.2), can
// only be in the socket itself. It is tempting to use the state hook of
// [http.ClientConn] instead, but it fires when the response is complete, before
// anyone has looked for surplus bytes.
//
// An idle HTTP/2 connection that has become unavailable has received a GOAWAY.
func (c *conn) readEntered() (watch bool) {
	switch {
	case c.is(stateDialing):
	case !c.h2:
		return c.is(stateIdle) || c.complete()
	case c.is(stateIdle) || c.is(stateSensor):
		if c.cc.Available() == 0 && c.cc.InFlight() == 0 {
			c.net.end(time.Now(), errGoAway)
			go c.pool.sawGoAway(c)
		}
	}
	return false
}

// outOfData runs when an HTTP/1 connection that is idle, or about to be, waits for
// data.
func (c *conn) outOfData() {
	if c.complete() {
		c.pool.returned(c)
	}
}

var errGoAway = errors.New("receiving GOAWAY")

// stateChanged is the state hook. net/http calls it with locks held and in the
// way of requests, so it only notes things.
//
// Streams of an HTTP/2 connection may have become free. An HTTP/1 connection
// whose response is complete is on its way back: it is not available yet, but
// nobody needs to dial in the moment until then.
func (c *conn) stateChanged(*http.ClientConn) {
	if c.h2 {
		c.streamsEnded(false)
		c.serveWaiting()
		return
	}
	if c.complete() && !c.returning.Swap(true) {
		c.pool.returning.Add(1)
		if !c.complete() {
			c.notReturning() // it is back, and may have been taken again
			c.serveWaiting() // somebody may have counted on it
		}
	}
}

// serveWaiting runs when those that wait may be served: a stream of an HTTP/2
// connection may have become free.
func (c *conn) serveWaiting() {
	if c.pool.waiting.Load() > 0 {
		go c.pool.offer(c)
	}
}

// streamsEnded notes when the last stream of an HTTP/2 connection ended; began
// says that there was one since. That may be long before its response is read to
// the end: what has arrived waits in buffers for a slow client, while the
// upstream's idle clock runs.
func (c *conn) streamsEnded(began bool) {
	c.endedMu.Lock()
	defer c.endedMu.Unlock()
	c.streaming = c.streaming || began
	if c.streaming && c.cc.InFlight() == 0 {
		c.streaming, c.endedAt = false, time.Now()
	}
}

// lastEnd returns when the last stream ended. It is the time given if that is
// not known: there was none, or net/http is not done with one that was reset, or
// ended just now.
func (c *conn) lastEnd(otherwise time.Time) time.Time {
	c.endedMu.Lock()
	defer c.endedMu.Unlock()
	if c.streaming || c.endedAt.IsZero() {
		return otherwise
	}
	return c.endedAt
}

// become changes the state. The pool's lock is held.
func (c *conn) become(s connState) {
	c.state.Store(uint32(s))
	c.notReturning()
}

// notReturning runs when the connection is back, or will not come back.
func (c *conn) notReturning() {
	if c.returning.Swap(false) {
		c.pool.returning.Add(-1)
	}
}

// socketClosed runs when the socket is closed, by us or by net/http.
func (c *conn) socketClosed() {
	if !c.is(stateDialing) {
		go c.pool.removed(c)
	}
}

// close closes the connection; without blocking, since ending TLS and HTTP/2
// writes to the socket.
func (c *conn) close() {
	go func() { _ = c.cc.Close() }()
}

// ending classifies the end of a connection that was idle when its socket was
// closed and that we did not close: why, and whether that tells when the
// upstream closes idle connections.
func (c *conn) ending() (reason CloseReason, closedByUpstream bool) {
	end := c.net.closing.Load()
	if end.err != nil {
		if errors.Is(end.err, os.ErrDeadlineExceeded) {
			return CloseReadTimeout, false
		}
		return CloseUpstream, true // EOF, RST, GOAWAY
	}
	if c.h2 {
		// No error from the socket: close_notify, with or without a GOAWAY before
		// it, or a protocol error.
		return CloseUpstream, c.net.noise > 0 && end.last <= tlsEnd
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
