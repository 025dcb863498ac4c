package connpool

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/socket"
)

const (
	// waited is how long a Read must take to have waited for data. A shorter
	// one may have found data that had been there for any time, and must not
	// move the idle clock; taking a real wait for none only makes a connection
	// look older than it is.
	waited = 250 * time.Microsecond

	// tlsNoise is the size of the largest TLS record that is certainly no part
	// of a request or response: a TLS 1.3 or AEAD alert has 24 or 31 bytes, the
	// shortest message of HTTP/1 more than 40.
	tlsNoise = 32

	// lastWords is the size of the largest end of an HTTP/2 connection: a GOAWAY,
	// with some debug data, and over TLS a close_notify. Without any data they have
	// 17, and over TLS 63 or 77 bytes.
	lastWords = 128

	// measureEvery is how often a connection measures a response time.
	measureEvery = time.Second
)

// A netConn is what a connection looks like from below: it counts bytes, keeps
// the idle clock and tells its conn what it sees. It wraps everything else that
// is between us and the socket, and TLS comes on top of it.
type netConn struct {
	net.Conn
	owner *conn
	noise int // messages of up to so many bytes carry no HTTP

	reading atomic.Bool  // inside Read, so every layer above is out of data
	sent    atomic.Bool  // something of the request was written
	got     atomic.Int64 // bytes read since take-out
	last    atomic.Int64 // bytes of the last Read that had any
	readAt  atomic.Int64 // end of that Read, in nanoseconds since started
	settled atomic.Int64 // when the upstream was last seen to have all that was sent, likewise
	taken   atomic.Int64 // when a request last took it as it was idle, likewise
	written atomic.Int64 // end of the last Write, in nanoseconds since started
	timing  atomic.Bool  // the next byte ends a response time
	secured atomic.Bool  // what is read from now on is HTTP
	entries atomic.Int32 // of Read, since secured
	shut    atomic.Bool
	ending  atomic.Pointer[ending]
	silence atomic.Pointer[socket.Silence] // as it was closed, without a response

	socket socket.Peeker
	tcp    socket.TCP
	watch  socket.Watch
	byReader
}

// byReader is owned by whoever reads, which net/http makes one goroutine at a time.
type byReader struct {
	waitedAt   time.Time // end of the last Read that had to wait
	measuredAt time.Time // when a response time was last measured
}

// An ending is how the connection ended, as seen from below.
type ending struct {
	at       time.Time
	err      error         // of Read, if it was the first sign
	last     int           // bytes of the last Read
	quiet    time.Duration // since the last Read
	inFlight int           // HTTP/2: streams
}

// started is what monotonic times in atomics are relative to.
var started = time.Now()

// wrap makes c the socket of n.
func (n *netConn) wrap(c net.Conn) {
	n.Conn = c
	n.tcp = socket.Of(c)
	n.readAt.Store(int64(time.Since(started)))
	n.socket.Init(c, func() { n.reading.Store(false) }, func() {
		n.reading.Store(true)
		n.owner.outOfData()
	})
}

// take prepares for the next request: counters start again, and so does our
// read_timeout, which has been running since the connection became idle.
func (n *netConn) take(now time.Time, timing bool) {
	n.renewTimeout(now)
	n.taken.Store(int64(now.Sub(started)))
	n.sent.Store(false)
	n.got.Store(0)
	n.timing.Store(timing)
}

// responded tells whether bytes of a response have arrived since take-out.
func (n *netConn) responded() bool { return n.got.Load() > int64(n.noise) }

func (n *netConn) Read(p []byte) (count int, err error) {
	n.reading.Store(true)
	if n.secured.Load() {
		n.entries.Add(1)
	}
	watch := n.owner.readEntered()
	before := time.Now()
	if watch {
		count, err = n.readWatched(p)
	} else {
		count, err = n.Conn.Read(p)
	}
	n.reading.Store(false)
	now := time.Now()
	if now.Sub(before) >= waited {
		n.waitedAt = now
	}
	if count > 0 {
		n.got.Add(int64(count))
		n.last.Store(int64(count))
		n.readAt.Store(int64(now.Sub(started)))
		if n.timing.Swap(false) && now.Sub(n.measuredAt) >= measureEvery {
			n.measuredAt = now
			n.owner.measured(now, now.Sub(started)-time.Duration(n.written.Load()))
		}
	}
	if err != nil {
		n.end(now, err)
	}
	return count, err
}

// readWatched reads from a connection that is idle, or about to be. Whenever it may
// take data out of the socket, the connection does not count as reading. Otherwise
// what arrives then would be nowhere to be seen, and be taken for the answer to a
// request that is sent just then.
func (n *netConn) readWatched(p []byte) (int, error) {
	if !n.socket.OK() {
		n.owner.outOfData()
		return n.Conn.Read(p)
	}
	n.renewTimeout(time.Now())
	count, err := n.socket.Read(p)
	if broken, ok := err.(*os.SyscallError); ok {
		err = &net.OpError{Op: "read", Net: n.LocalAddr().Network(), Source: n.LocalAddr(), Addr: n.RemoteAddr(), Err: broken}
	}
	return count, err
}

// renewTimeout starts our read_timeout. transport http does with each Read, but for
// Unix sockets, where there is none.
func (n *netConn) renewTimeout(now time.Time) {
	d := n.owner.pool.cfg.Idle.ReadTimeout
	if _, unix := n.Conn.(*net.UnixConn); d > 0 && !unix {
		_ = n.Conn.SetReadDeadline(now.Add(d))
	}
}

func (n *netConn) Write(p []byte) (int, error) {
	// The response may be here before we are told that the request is gone.
	n.written.Store(int64(time.Since(started)))
	count, err := n.Conn.Write(p)
	if count > n.noise {
		n.sent.Store(true)
	}
	n.written.Store(int64(time.Since(started)))
	return count, err
}

// Close closes the socket and has the owner clean up. It may be called with
// locks of net/http held, so the owner does that on a goroutine of its own.
func (n *netConn) Close() error {
	if n.shut.Swap(true) {
		return net.ErrClosed
	}
	n.end(time.Now(), nil)
	if c := n.owner; c.carries() && (c.h2 || n.noise > 0 || !n.responded()) { // perhaps a request was lost
		s := n.silent(time.Now(), n.takenAt())
		n.silence.Store(&s)
	}
	err := n.Conn.Close()
	n.owner.socketClosed()
	return err
}

// silent returns what the upstream has to say of what it was sent, the last request at
// the time given, or as the connection was closed.
func (n *netConn) silent(now, sent time.Time) socket.Silence {
	if s := n.silence.Load(); s != nil {
		return *s
	}
	_, silence, _ := n.look(now, sent)
	return silence
}

// look asks the kernel what the upstream has to say of what it was sent. Where the
// kernel does not tell, ok is false, and there is no silence.
func (n *netConn) look(now, sent time.Time) (info socket.Info, silence socket.Silence, ok bool) {
	if info, ok = n.tcp.Info(); ok {
		silence = n.watch.Look(now, info, sent)
	}
	return info, silence, ok
}

// takenAt returns when a request last took the connection as it was idle.
func (n *netConn) takenAt() time.Time { return started.Add(time.Duration(n.taken.Load())) }

// CloseWrite lets an upgraded connection be half-closed.
func (n *netConn) CloseWrite() error {
	if c, ok := n.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// end records the first sign of the end.
func (n *netConn) end(at time.Time, err error) {
	if n.ending.Load() != nil {
		return
	}
	e := &ending{at: at, err: err, last: int(n.last.Load()), quiet: at.Sub(started) - time.Duration(n.readAt.Load())}
	if c := n.owner; !c.is(dialing) && c.h2 {
		e.inFlight = c.cc.InFlight()
	}
	n.ending.CompareAndSwap(nil, e)
}

// quiet tells whether the socket has neither data nor an end to be read. The
// goroutine that reads it may not have run yet.
func (n *netConn) quiet(h2 bool) bool {
	if !n.socket.OK() {
		return true
	}
	data, dead := n.socket.Peek()
	// HTTP/2 peers may send frames at any time.
	return !dead && (h2 || !data)
}

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
// The first bytes of an HTTP/2 connection are its SETTINGS (RFC 9113 section 3.4):
// they have been read when the second Read begins. An idle one that has become
// unavailable has received a GOAWAY, or SETTINGS that allow no stream.
func (c *conn) readEntered() (watch bool) {
	switch {
	case c.is(dialing):
	case !c.h2:
		s := c.at()
		return s == idle || s == fresh || c.complete()
	case !c.settings.Load() && c.net.entries.Load() > 1:
		c.noteSettings()
		c.serveWaiting()
		c.askWhyNoStreams() // a GOAWAY may have come with them
	default:
		c.askWhyNoStreams()
	}
	return false
}

// askWhyNoStreams closes an idle HTTP/2 connection that has received a GOAWAY.
func (c *conn) askWhyNoStreams() {
	if !c.idles() && !c.is(sensor) {
		return
	}
	if _, limit := c.streamsLeft(); limit == 0 {
		go c.pool.streamsRefused(c, time.Now())
	}
}

// outOfData runs when an HTTP/1 connection that is idle, or about to be, waits for
// data. It runs on the goroutine that reads.
func (c *conn) outOfData() {
	switch {
	case c.complete():
		c.pool.returned(c, c.net.waitedAt)
	case c.idles():
		c.pool.trust(c)
	}
}

// measured notes a response time.
func (c *conn) measured(now time.Time, took time.Duration) {
	c.learner.Responded(now, took)
}

// socketClosed runs when the socket is closed, by us or by net/http. A dial that is
// given up, or has been, tells of itself.
func (c *conn) socketClosed() {
	if s := c.at(); s != dialing && s != closed {
		go c.pool.removed(c)
	}
}
