package wire

import (
	"errors"
	"os"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/neterr"
)

// lastWords is the size of the largest end of an HTTP/2 connection: a GOAWAY,
// with some debug data, and over TLS a close_notify. Without any data they have
// 17, and over TLS 63 or 77 bytes.
const lastWords = 128

// An Ending is how a connection ended, as seen from below. One that is nil is none.
type Ending struct {
	At       time.Time
	Err      error         // of Read, if it was the first sign
	Last     int           // bytes of the last Read
	Quiet    time.Duration // since the last Read
	InFlight int           // HTTP/2: streams
}

// End records the first sign of the end. err is what Read returned, or nil.
func (n *Conn) End(at time.Time, err error, inFlight int) {
	n.ending.CompareAndSwap(nil, &Ending{
		At: at, Err: err, InFlight: inFlight,
		Last: int(n.last.Load()), Quiet: at.Sub(started) - time.Duration(n.readAt.Load()),
	})
}

// Ending returns how the connection ended; nil: it has not.
func (n *Conn) Ending() *Ending { return n.ending.Load() }

// Shut tells whether this is the first call of it, so that the connection is to be
// closed.
func (n *Conn) Shut() bool { return !n.shut.Swap(true) }

// IsShut tells whether the connection is closed, or about to be.
func (n *Conn) IsShut() bool { return n.shut.Load() }

// TimedOut tells whether our read timeout ended the connection.
func (e *Ending) TimedOut() bool { return errors.Is(e.Err, os.ErrDeadlineExceeded) }

// Reset tells whether the upstream did not know the connection.
func (e *Ending) Reset() bool { return e != nil && neterr.IsReset(e.Err) }

// GivenUp tells whether the kernel gave the connection up: nobody answered it.
func (e *Ending) GivenUp() bool { return neterr.IsGivenUp(e.Err) }

// LostPing tells whether net/http seems to have closed an HTTP/2 connection because a
// PING was not answered in time; zero: it sends none. It says so to nobody but requests
// under way. Whatever else makes it close one has just been read.
func (e *Ending) LostPing(timeout time.Duration) bool {
	return timeout > 0 && e.Err == nil && e.Quiet >= timeout
}

// LastWords tells whether what an HTTP/2 connection read last may have been its end, a
// GOAWAY. What net/http takes for a protocol error is likely to be longer.
func (e *Ending) LastWords() bool { return e.Last <= lastWords }
