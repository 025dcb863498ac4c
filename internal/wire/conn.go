// Package wire is a connection to an upstream as it looks from below, between the
// socket and TLS or HTTP. It knows what was read and sent, whether net/http waits for
// data, how the connection ended, and whether the upstream owes an acknowledgement.
//
// States and pools are none of its business. Whoever embeds a [Conn] adds the methods
// Read and Close that net/http calls, and decides what follows from what they find.
package wire

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/socket"
)

const (
	// waited is how long a Read must take to have waited for data. A shorter
	// one may have found data that had been there for any time, and must not
	// move the idle clock. Taking a real wait for none only makes a connection
	// look older than it is.
	waited = 250 * time.Microsecond

	// tlsNoise is the size of the largest TLS record that is certainly no part
	// of a request or response. A TLS 1.3 or AEAD alert has 24 or 31 bytes, the
	// shortest message of HTTP/1 more than 40.
	tlsNoise = 32

	// ackSize is the size of the largest acknowledgement of SETTINGS, a frame of 9 bytes,
	// in a TLS record. No request is that small.
	ackSize = 38

	// measureEvery is how often a connection begins to measure a response time.
	measureEvery = time.Second
)

// A Conn counts bytes and keeps the idle clock of the connection that it wraps. It
// wraps everything else that is between us and the socket, and TLS comes on top of it.
type Conn struct {
	net.Conn
	readTimeout time.Duration

	reading atomic.Bool  // inside Read, so every layer above is out of data
	sent    atomic.Bool  // something of the request was written
	got     atomic.Int64 // bytes read since take-out
	last    atomic.Int64 // bytes of the last Read that had any
	readAt  atomic.Int64 // end of that Read, or when the socket was opened, in nanoseconds since started
	taken   atomic.Int64 // when a request last took it as it was idle, likewise
	written atomic.Int64 // when the last Write of what is timed ended, likewise
	writes  atomic.Int32 // that have ended
	settled atomic.Int32 // so many of them when the upstream was last seen to have all that was sent
	timing  atomic.Bool  // the next byte ends a response time that is to be measured
	opening atomic.Int32 // how far HTTP/2 is: begun, heard or acknowledged; zero: TLS comes first
	shut    atomic.Bool
	tls     bool
	ending  atomic.Pointer[Ending]
	silence atomic.Pointer[socket.Silence] // as it was closed, without a response

	socket socket.Peeker
	tcp    socket.TCP
	watch  socket.Watch
	timed  int64 // when timing last began, as in atomics, or 0; it belongs to whoever calls Take
	byReader
}

// What has happened on an HTTP/2 connection, in this order.
const (
	begun        = 1 + iota // what is read is HTTP, or tickets of TLS
	heard                   // something was read
	acknowledged            // and that was SETTINGS: the goroutine that reads has acknowledged them
)

// byReader belongs to whoever reads, which net/http makes one goroutine at a time.
type byReader struct {
	enteredAt int64     // when this Read began, as in atomics
	waitedAt  time.Time // end of the last Read that had to wait
}

// Options are what a Conn is told when it is made.
type Options struct {
	TLS         bool          // between HTTP and this connection
	ReadTimeout time.Duration // of a Read; zero: there is none
	// OutOfData runs as soon as a watched Read finds that the socket has no data. It
	// begins with a call of Waits.
	OutOfData func()
}

// started is what monotonic times in atomics are relative to.
var started = time.Now()

// sinceStart returns a time as it is kept in atomics.
func sinceStart(t time.Time) int64 { return int64(t.Sub(started)) }

// Wrap makes c the socket of n.
func (n *Conn) Wrap(c net.Conn, opt Options) {
	n.Conn, n.tls, n.readTimeout = c, opt.TLS, opt.ReadTimeout
	n.tcp = socket.Of(c)
	n.settled.Store(-1)
	n.readAt.Store(sinceStart(time.Now()))
	n.socket.Init(c, func() { n.reading.Store(false) }, opt.OutOfData)
}

// Begin says that what is read from now on is HTTP.
func (n *Conn) Begin() { n.opening.CompareAndSwap(0, begun) }

// Connected tells whether there is a socket. It may be asked while that is opened.
func (n *Conn) Connected() bool { return n.readAt.Load() != 0 }

// Remote returns the address that the connection goes to. There is none over a Unix
// socket.
func (n *Conn) Remote() netip.Addr {
	if a, ok := n.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr()
	}
	return netip.Addr{}
}

// TLS tells whether there is TLS between HTTP and this connection.
func (n *Conn) TLS() bool { return n.tls }

// carriesHTTP tells whether a message of so many bytes may be part of a request or a
// response.
func (n *Conn) carriesHTTP(bytes int64) bool {
	return bytes > tlsNoise || bytes > 0 && !n.tls
}

// Take prepares for the next request: counters start again, and so does the read
// timeout, which has been running since the connection became idle. timed says that
// the next byte ends a response time.
func (n *Conn) Take(now time.Time, timed bool) {
	at := sinceStart(now)
	n.renewTimeout(at)
	n.taken.Store(at)
	n.sent.Store(false)
	n.got.Store(0)
	if timed = timed && (n.timed == 0 || at-n.timed >= int64(measureEvery)); timed {
		n.timed = at
	}
	n.timing.Store(timed)
}

// TakenAt returns when a request last took the connection as it was idle.
func (n *Conn) TakenAt() time.Time { return started.Add(time.Duration(n.taken.Load())) }

// Sent tells whether bytes of a request were written since the last Take.
func (n *Conn) Sent() bool { return n.sent.Load() }

// Responded tells whether bytes of a response have arrived since the last Take.
func (n *Conn) Responded() bool { return n.carriesHTTP(n.got.Load()) }

// Waits tells that net/http waits for data, so every layer above is out of it.
func (n *Conn) Waits() { n.reading.Store(true) }

// Waiting tells whether net/http waits for data, as far as is known.
func (n *Conn) Waiting() bool { return n.reading.Load() }

// ReadAt returns when something was read last.
func (n *Conn) ReadAt() time.Time { return started.Add(time.Duration(n.readAt.Load())) }

// WaitedAt returns when the last Read ended that had to wait for data. It is for the
// goroutine that reads.
func (n *Conn) WaitedAt() time.Time { return n.waitedAt }

// Enter begins a Read.
func (n *Conn) Enter() {
	n.enteredAt = sinceStart(time.Now())
	n.reading.Store(true)
}

// SettingsRead tells whether SETTINGS were read: what net/http sends between two Reads, and
// is as small, acknowledges them. Tickets of TLS come before them, and are read as well.
func (n *Conn) SettingsRead() bool { return n.opening.Load() == acknowledged }

// Watchable tells whether a Read can be watched.
func (n *Conn) Watchable() bool { return n.socket.OK() }

// Fetch reads, after Enter. A watched one calls OutOfData before it waits. took is the
// response time, once a second at most, or less than zero.
func (n *Conn) Fetch(p []byte, watched bool) (count int, took time.Duration, err error) {
	took = -1
	if watched {
		count, err = n.readWatched(p)
	} else {
		count, err = n.Conn.Read(p)
	}
	n.reading.Store(false)
	now := time.Now()
	at := sinceStart(now)
	if at-n.enteredAt >= int64(waited) {
		n.waitedAt = now
	}
	if count > 0 {
		if n.opening.Load() == begun {
			n.opening.Store(heard)
		}
		n.got.Add(int64(count))
		n.last.Store(int64(count))
		n.readAt.Store(at)
		if n.timing.Load() {
			n.timing.Store(false)
			took = time.Duration(at - n.written.Load())
		}
	}
	return count, took, err
}

// readWatched reads from a connection that is idle, or about to be. Whenever it may
// take data out of the socket, the connection does not count as waiting. Otherwise
// what arrives then would be nowhere to be seen, and be taken for the answer to a
// request that is sent just then.
func (n *Conn) readWatched(p []byte) (int, error) {
	n.renewTimeout(n.enteredAt)
	count, err := n.socket.Read(p)
	if broken, ok := err.(*os.SyscallError); ok {
		err = &net.OpError{Op: "read", Net: n.LocalAddr().Network(), Source: n.LocalAddr(), Addr: n.RemoteAddr(), Err: broken}
	}
	return count, err
}

// renewTimeout starts our read timeout at a time as in atomics. transport http does with
// each Read, but for Unix sockets, where there is none.
func (n *Conn) renewTimeout(at int64) {
	if _, unix := n.Conn.(*net.UnixConn); n.readTimeout > 0 && !unix {
		_ = n.Conn.SetReadDeadline(started.Add(time.Duration(at) + n.readTimeout))
	}
}

func (n *Conn) Write(p []byte) (int, error) {
	timing := n.timing.Load()
	if len(p) <= ackSize && n.opening.Load() == heard && !n.reading.Load() {
		n.opening.Store(acknowledged)
	}
	if timing { // the response may be here before we are told that the request is gone
		n.written.Store(int64(time.Since(started)))
	}
	count, err := n.Conn.Write(p)
	if n.carriesHTTP(int64(count)) {
		n.sent.Store(true)
	}
	n.writes.Add(1)
	if timing {
		n.written.Store(int64(time.Since(started)))
	}
	return count, err
}

// CloseWrite lets an upgraded connection be half-closed.
func (n *Conn) CloseWrite() error {
	if c, ok := n.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// LooksAlive tells whether the socket has neither data nor an end to be read. The
// goroutine that reads it may not have run yet. In HTTP/1 there must be no data either,
// and none on its way up. That is asked last: what arrives later makes net/http close
// the connection. Peers of HTTP/2 may send frames at any time.
func (n *Conn) LooksAlive(h2 bool) bool {
	if n.Watchable() {
		if data, dead := n.socket.Peek(); dead || data && !h2 {
			return false
		}
	}
	return h2 || n.Waiting()
}
