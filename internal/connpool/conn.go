package connpool

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/linked"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// A conn is one connection of a pool. What is not in one of the structs below is
// set before the connection is fresh, or has a lock or atomics of its own.
type conn struct {
	pool    *Pool
	cc      *http.ClientConn
	learner *idletime.Learner
	h2      bool
	dialed  time.Time     // when its dial began
	opened  time.Time     // when it ended
	life    time.Duration // max_lifetime with its jitter; 0: unlimited

	state    atomic.Uint32 // see moveLocked
	answered atomic.Int32  // HTTP/2: leases whose response has begun to arrive
	heard    atomic.Bool   // a response has come on it
	settings atomic.Bool   // HTTP/2: the SETTINGS of the upstream have arrived
	allowed  atomic.Int32  // HTTP/2: the streams it allowed when that was last seen

	inGroup linked.Node[conn] // in the list of all idle ones, which guards it
	net     netConn
	streams streamClock
	byPool
}

// byPool is guarded by the pool's lock.
type byPool struct {
	place     linked.Node[conn] // in the list of its state
	leases    int               // requests it carries
	requests  int               // requests it has carried
	takenAt   time.Time
	idleAt    time.Time
	announced idletime.Optional // by a Keep-Alive field of this connection
	reason    CloseReason       // why we close it
	limit     idletime.Limit    // of its idle age, when that was last looked at
	seenOpen  time.Time         // when the learner was last told so
	idledFor  time.Duration     // when it was last taken, as idle
	suspect   bool
	left      bool // its address was given up
	untried   bool // its probe did not wait for it: others that can be repeated may
	lost      bool // its requests seem to get lost
	apart     map[*apart]bool
	counted   bool // it was told whether it ended at once
	dialedFor *waiter
	owner     *Owner // whose requests alone it carries; nil: anybody's
	pinnedAt  time.Time
	bound     bool // it has carried credentials of its owner, or was about to
}

// A streamClock notes when the last stream of an HTTP/2 connection ended. That may
// be long before its response is read to the end: what has arrived waits in
// buffers for a slow client, while the upstream's idle clock runs.
type streamClock struct {
	mu      sync.Mutex
	running bool // a stream began since endedAt was noted
	endedAt time.Time
	arrives linked.List[stream] // those whose response does
}

func (c *conn) at() state       { return state(c.state.Load()) }
func (c *conn) is(s state) bool { return c.at() == s }

// idles tells whether the connection waits in the pool.
func (c *conn) idles() bool { return c.is(idle) || c.is(fresh) }

// age returns for how long the connection has been idle.
func (c *conn) age(now time.Time) time.Duration { return elapsed(c.idleAt, now) }

// askLimit finds out the connection's idle limit.
func (c *conn) askLimit(now time.Time) {
	if c.requests == 0 {
		c.limit = c.learner.UnusedLimit(now)
	} else {
		c.limit = c.learner.Limit(now, c.announced)
	}
}

// seen returns the observation that the connection was open when it had been idle
// for age.
func (c *conn) seen(now time.Time, age time.Duration, p idletime.Proof) idletime.Sighting {
	return idletime.Sighting{At: now, Idle: age, Opened: c.opened, Proof: p}
}

// sightEvery is how often the learner is told that a connection is open.
const sightEvery = 250 * time.Millisecond

// proof looks whether the path to the upstream is alive, as far as that can be told:
// one that drops everything looks like an upstream that has nothing to say.
func (c *conn) proof() idletime.Proof {
	if c.net.RemoteAddr().Network() != "tcp" {
		return idletime.LivePath
	}
	if info, ok := c.net.Info(); ok && !info.Alive(c.pool.cfg.ProbeInterval) {
		return idletime.Silence
	}
	return idletime.LivePath
}

// sight tells the learner that the connection is open at that age, if it was of no
// use to a request because nobody knows how old it may be.
func (c *conn) sight(now time.Time, age time.Duration) {
	if now.Sub(c.seenOpen) >= sightEvery {
		c.seenOpen = now
		c.pool.afterLocked(event{kind: sighted, conn: c, at: now, idle: age})
	}
}

// countEnd tells the learner, once, whether a connection that could be reused ended
// right after its first response.
func (c *conn) countEnd(now time.Time, atOnce bool) {
	switch {
	case c.counted:
		return
	case atOnce:
		c.learner.EndedAtOnce(now)
	default:
		c.learner.Lasted(now)
	}
	c.counted = true
}

// worn tells whether the connection may carry no further request, and why.
func (c *conn) worn(now time.Time) (CloseReason, bool) {
	cfg := c.pool.cfg
	switch {
	case cfg.MaxRequests > 0 && c.requests >= cfg.MaxRequests && !cfg.Reuse:
		return CloseRequested, true
	case cfg.MaxRequests > 0 && c.requests >= cfg.MaxRequests:
		return CloseMaxRequests, true
	case c.life > 0 && elapsed(c.opened, now) >= c.life:
		return CloseMaxLifetime, true
	case c.left:
		return CloseDNS, true
	case c.pool.group.retired.Load() && c.owner == nil: // or the owner could not log in any more
		return CloseDrained, true
	case c.outlived(now):
		return ClosePinned, true
	}
	return "", false
}

// reserve makes sure that one request can be sent without waiting.
//
// For HTTP/2 the pool does its own counting. Reservations of net/http deadlock
// when there are more than the SETTINGS that arrive later allow: each request
// waits for the number of streams and reservations to fall below the limit, and
// the reservations are those of the requests that wait.
func (c *conn) reserve() bool {
	if !c.h2 {
		return c.cc.Reserve() == nil
	}
	return c.room() > 0
}

// room returns how many requests an HTTP/2 connection can take now.
//
// A response that has fully arrived no longer occupies a stream, even if the
// client still reads it. Which responses these are cannot be seen: of those that
// have begun to arrive, at most as many are under way as there are streams.
//
// Until the SETTINGS are here, net/http takes the limit for 100, and it is not known
// whether anybody is there. One request finds out.
func (c *conn) room() int {
	answered := int(c.answered.Load()) // first: what begins to arrive now is counted twice, not left out
	known := c.sawSettings()
	available, limit := c.streamsLeft()
	inFlight := limit - available
	if available == 0 {
		return 0
	}
	if !known {
		limit = 1
	}
	return limit - (c.leases - answered + min(answered, inFlight))
}

// streamsLeft returns how many streams an HTTP/2 connection has to give, and how many
// it allows at a time. net/http tells what it has to give and what is under way one
// after the other, and streams begin and end in between. After a GOAWAY it has none to
// give, and seems to allow what is under way.
func (c *conn) streamsLeft() (available, limit int) {
	for inFlight, before := c.cc.InFlight(), 0; ; {
		before, available = inFlight, c.cc.Available()
		if inFlight = c.cc.InFlight(); inFlight == before {
			return available, available + inFlight
		}
	}
}

// assumedStreams is what net/http takes for the limit until the SETTINGS arrive
// (RFC 9113 section 6.5.2 recommends that it be no smaller).
const assumedStreams = 100

// sawSettings tells whether the SETTINGS of the upstream have arrived. For a limit of
// 100, the reader tells: see readEntered.
func (c *conn) sawSettings() bool {
	if c.settings.Load() {
		return true
	}
	if _, limit := c.streamsLeft(); limit != assumedStreams && c.cc.Err() == nil {
		c.noteSettings()
	}
	return c.settings.Load()
}

// noteSettings notes that the SETTINGS have arrived.
func (c *conn) noteSettings() {
	if c.settings.Swap(true) {
		return
	}
	c.pool.memory.usable.add(time.Since(c.dialed))
	// An assumption is no news. Nothing available tells nothing either after a GOAWAY.
	available, limit := c.streamsLeft()
	if limit != assumedStreams && (available > 0 || c.pool.memory.streams.Load() == 0) {
		c.noteStreams(limit)
	}
}

// noteLimit notes how many streams the upstream allows now, if that can be told.
func (c *conn) noteLimit() {
	if available, limit := c.streamsLeft(); available > 0 && c.sawSettings() {
		c.noteStreams(limit)
	}
}

// noteStreams notes how many streams the upstream allows.
func (c *conn) noteStreams(n int) {
	c.allowed.Store(int32(min(n, 1<<20)))
	c.pool.memory.allows(n)
}

// leaving tells whether an HTTP/2 connection that carries requests has received a
// GOAWAY: it takes none, though fewer are under way than it allows.
func (c *conn) leaving() bool {
	if !c.h2 || c.cc.Available() > 0 {
		return false
	}
	available, limit := c.streamsLeft()
	return available == 0 && limit < int(c.allowed.Load())
}

// complete tells whether an HTTP/1 connection is done with its response.
func (c *conn) complete() bool {
	s := c.at()
	return (s == busy || s == returning) && c.cc.Available() == 1
}

// stateChanged is the state hook. net/http calls it with locks held and in the
// way of requests, so it only notes things.
//
// Streams of an HTTP/2 connection may have become free. An HTTP/1 connection
// whose response is complete is on its way back: it is not available yet, but
// nobody needs to dial in the moment until then.
func (c *conn) stateChanged(*http.ClientConn) {
	if c.h2 {
		c.streamsEnded(false)
		c.noteLimit()
		c.serveWaiting()
		return
	}
	if c.cc.Available() != 1 || !c.state.CompareAndSwap(uint32(busy), uint32(returning)) {
		return
	}
	c.pool.returning.Add(1)
	if c.cc.Available() == 1 {
		return
	}
	// It was back already, and taken again, when its state changed.
	if c.state.CompareAndSwap(uint32(returning), uint32(busy)) {
		c.pool.returning.Add(-1)
	}
	c.serveWaiting() // somebody may have counted on it
}

// serveWaiting runs when those that wait may be served: a stream of an HTTP/2
// connection may have become free.
func (c *conn) serveWaiting() {
	if c.pool.waiting.Load() > 0 {
		go c.pool.offer(c)
	}
}

// lingers tells whether net/http is not done yet with streams whose responses were
// read. An idle connection may have none to give for that. The state hook tells when
// it has.
func (c *conn) lingers() bool { return c.h2 && c.cc.InFlight() > 0 }

// streamsEnded notes when the last stream of an HTTP/2 connection ended; began
// says that there was one since.
func (c *conn) streamsEnded(began bool) {
	s := &c.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = s.running || began
	if s.running && c.cc.InFlight() == 0 {
		s.running, s.endedAt = false, time.Now()
	}
}

// quietSince returns when the last stream ended, and whether that is known: there
// was one, none is under way, and net/http is done with all that were reset.
func (c *conn) quietSince() (time.Time, bool) {
	s := &c.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endedAt, !s.running && !s.endedAt.IsZero()
}

// lastEnd returns when the last stream ended, or the time given if that is not known.
func (c *conn) lastEnd(otherwise time.Time) time.Time {
	if at, known := c.quietSince(); known {
		return at
	}
	return otherwise
}

// usable tells whether an HTTP/2 connection that has no stream to give may get one
// later: its SETTINGS allow none for now (RFC 9113 section 5.1.2). One that has
// received a GOAWAY never does. net/http tells the two apart only when a request
// is sent: at once if there will be no stream. This one does not come further than
// that, since its host name cannot be sent.
func (c *conn) usable() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	req := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: "probe"}, Host: "\x00",
		Header: make(http.Header), Body: http.NoBody,
	}
	_, err := c.cc.RoundTrip(req.WithContext(ctx))
	return err != nil && !replay.WasRefused(err)
}
