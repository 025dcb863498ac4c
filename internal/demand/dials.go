// Package demand says how many connections a pool should have, and when to ask again.
// [Dials] says how many dials should be under way for requests that wait, [Idle] how many
// idle connections are worth keeping, and [Warm] when to dial for those that are kept
// warm.
//
// It holds no connection and no lock: whoever asks has one. Time is passed in.
package demand

import (
	"strings"
	"time"
	"unicode"
)

const (
	// mostHedged is how many dials are under way at most because the others take
	// long.
	mostHedged = 8

	// leastPatience is how soon a further dial is started at least, unknownPatience
	// how soon while nobody knows how long one takes.
	leastPatience   = 250 * time.Millisecond
	unknownPatience = time.Second
)

// Waiting are the requests that wait for a connection.
type Waiting struct {
	Requests  int
	Founders  int // among them: each takes a connection of its own
	Returning int // connections that will be idle in a moment, for as many
}

// An Upstream is what is known of the connections to it.
type Upstream struct {
	Shares  bool          // one connection serves many requests
	Streams int           // how many at a time; zero: that is not known
	Usable  time.Duration // how long it takes from a dial until it does; zero: that is not known
}

// Patience returns how long a dial usually takes at most.
func (u Upstream) Patience() time.Duration {
	if u.Usable > 0 {
		return max(3*u.Usable, leastPatience)
	}
	return unknownPatience
}

// Dials says when to start another dial because those under way take long, and who is
// told that one failed. The zero value is ready for use.
type Dials struct {
	next     time.Time // zero: nobody waits for a dial
	patience time.Duration
	hedges   int
	failed   string    // why the last dial failed
	began    time.Time // when that one began
}

// Want returns how many dials should be under way for those that wait, and of these how
// many they need if none takes long. It is one for each, as long as it is not known that
// connections are shared. Where they are, the first requests share a dial, and only
// founders have one each. But one that hangs is one dial's matter, so from time to time
// another one is started, sooner if dials are known to be quick.
func (d *Dials) Want(now time.Time, w Waiting, u Upstream) (need, want int) {
	waiting := w.Requests - w.Returning
	if waiting <= 0 {
		*d = Dials{}
		return 0, 0
	}
	if !u.Shares {
		return waiting, waiting
	}
	switch {
	case d.next.IsZero():
		d.patience = u.Patience()
		d.next = now.Add(d.patience)
	case !now.Before(d.next):
		d.hedges++
		d.patience *= 2
		d.next = now.Add(d.patience)
	}
	shared := w.Requests - w.Founders
	need = min(shared, 1)
	if u.Streams > 0 {
		need = (shared + u.Streams - 1) / u.Streams
	}
	return w.Founders + need, min(waiting, w.Founders+max(need, min(1+d.hedges, mostHedged)))
}

// Next returns when another dial may be wanted; zero: not before more requests wait.
func (d *Dials) Next() time.Time { return d.next }

// Failed notes that a dial failed, and when it began. If the last one failed alike, it
// returns when the first of the two began: who waits since then has seen both fail. Zero:
// nobody has.
func (d *Dials) Failed(began time.Time, err error) (since time.Time) {
	why := cause(err)
	if d.failed == why {
		since = began
		if d.began.Before(began) {
			since = d.began
		}
	}
	d.failed, d.began = why, began
	return since
}

// Succeeded notes that a dial led to a connection for a request.
func (d *Dials) Succeeded() { d.failed = "" }

// cause returns the text of an error without its numbers: a port of ours, or the time at
// which a certificate has expired, is another one with each dial. Errors cannot be
// compared, since those of reverse_proxy hide what is in them.
func cause(err error) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, err.Error())
}
