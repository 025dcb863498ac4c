package replay

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// MaxKept is how much of a request body is kept for a replay.
const MaxKept = 64 << 10

// errAttemptOver is what an attempt reads that is over.
var errAttemptOver = errors.New("reading request body: the attempt it belonged to is over")

// errWrongLength is what an attempt reads at the end of a body that is shorter or longer
// than its Content-Length. Such a request is malformed, and HTTP/3 clients can send one:
// it must not be ended as if it were whole (RFC 9114 section 4.1.2).
var errWrongLength = errors.New("reading request body: its length is not that of Content-Length")

// A Body lets up to two attempts read one request body. What the first one
// reads is kept (up to MaxKept bytes) and read again by the second, which then
// goes on with the rest. An attempt gets a view; closing a view detaches it and
// never waits, and the source is closed exactly once, when the last attempt is
// done with it.
type Body struct {
	src    io.ReadCloser
	length int64 // that the request tells; negative or zero: it does not
	views  [2]View

	// reading is held while the source is read. It comes before mu.
	reading sync.Mutex

	mu       sync.Mutex
	fetched  sync.Cond // a fetch has ended, or a view was closed
	fetching bool      // a goroutine of its own reads the source, for whoever is active then
	scratch  []byte    // that it may read into
	atATime  int       // how much it makes room for
	beyond   [1]byte   // what it reads at the end of a body whose length is known
	active   *View
	kept     []byte
	read     int64 // how many bytes
	lost     bool  // more than MaxKept bytes were read, or nobody needs them any more
	err      error // what src.Read ended with
	final    bool  // there will be no further attempt
	closed   bool  // src is, or is being, closed
	passedOn bool  // to another round trip

	former *Body // of another round trip, of which this one has the body; nil: of none
	begun  bool  // some was read there
}

// NewBody returns a body that reads from src; length is that of the request,
// negative if unknown.
func NewBody(src io.ReadCloser, length int64) *Body {
	b := &Body{src: src, length: length, atATime: leastRoom}
	b.fetched.L = &b.mu
	if length > 0 && length <= MaxKept {
		b.kept = make([]byte, 0, length)
	}
	b.active = &b.views[0]
	b.active.of = b
	return b
}

// First returns the view of the first attempt.
func (b *Body) First() *View { return &b.views[0] }

// Rewindable tells whether a second attempt can read what the first one did.
func (b *Body) Rewindable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.idle() && b.whole()
}

// idle tells whether no attempt is inside Read of the source. What is read apart is for
// the next one as well. The lock is held.
func (b *Body) idle() bool {
	if b.fetching {
		return true
	}
	free := b.reading.TryLock()
	if free {
		b.reading.Unlock()
	}
	return free
}

// whole tells whether all that was read is kept. The lock is held.
func (b *Body) whole() bool { return !b.lost && (b.err == nil || b.err == io.EOF) }

// Rewind returns the view for a second attempt and takes the body away from
// the first. It reports false if the body turned out not to be rewindable.
func (b *Body) Rewind() (io.ReadCloser, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.idle() || !b.whole() || b.active == &b.views[1] {
		return nil, false
	}
	b.active = &b.views[1]
	b.active.of, b.active.apart = b, b.fetching
	return b.active, true
}

// Consumed tells whether any byte was read, or may be just now: from then on, nobody
// but us can send this body whole.
func (b *Body) Consumed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.begun || b.read > 0 || b.fetching || !b.idle()
}

// BeingRead tells whether the source is read for an attempt that is over. Until that
// ends, nobody must look at the trailers, which it may set.
func (b *Body) BeingRead() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fetching || b.former.BeingRead()
}

// Failed tells whether reading the source failed, as it does when the client goes away,
// or sends less than it said.
func (b *Body) Failed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil && b.err != io.EOF
}

// Finish says that there will be no further attempt: the source is closed as
// soon as the current one closes its view, and what was kept is freed.
func (b *Body) Finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.final = true
	b.release()
	toClose := b.active.closed && !b.closed
	b.closed = b.closed || toClose
	b.mu.Unlock()
	if toClose {
		b.closeSource()
	}
}

// Abandon says that the last attempt is over: the source is closed.
func (b *Body) Abandon() {
	if b == nil || b.passedOn {
		return
	}
	_ = b.active.Close()
	b.Finish()
}

// closeSource closes the source, as soon as nobody reads it: what reverse_proxy
// hands us must not be closed during a Read. The Read of a client that stalls
// ends with its request, and an upstream that answered early is not kept waiting
// for that.
func (b *Body) closeSource() {
	if b.reading.TryLock() {
		defer b.reading.Unlock()
		_ = b.src.Close()
		return
	}
	go func() {
		b.reading.Lock()
		defer b.reading.Unlock()
		_ = b.src.Close()
	}()
}

// ErrTooLong is the error of GiveLength.
var ErrTooLong = errors.New("sending body of unknown length to an HTTP/1.0 upstream: more than 65536 bytes")

// GiveLength reads the source to its end, keeps it, and gives out, the request with
// a view of it, the length: servers that speak HTTP/1.0 know no chunked encoding
// (RFC 9112 section 6.1). Trailers need that and are left out. It reports the
// length, or [ErrTooLong] if that is more than can be kept.
func (b *Body) GiveLength(out *http.Request) (int64, error) {
	length, err := b.readAll()
	if err != nil {
		return 0, err
	}
	// net/http sends chunks, whatever the length, to whom the client did.
	out.ContentLength, out.TransferEncoding, out.Trailer = length, nil, nil
	return length, nil
}

// readAll reads the source to its end and keeps it. The next Read begins anew.
func (b *Body) readAll() (int64, error) {
	v := b.active
	buf := make([]byte, 8<<10)
	for {
		_, err := v.Read(buf)
		b.mu.Lock()
		lost, length := b.lost, int64(len(b.kept))
		if err != nil {
			v.offset = 0
		}
		b.mu.Unlock()
		switch {
		case lost:
			return 0, ErrTooLong
		case err == io.EOF:
			return length, nil
		case err != nil:
			return 0, fmt.Errorf("reading request body: %w", err)
		}
	}
}

// Again returns a Body for another round trip of the same request, with which its
// body is read from the beginning. Nothing must have been sent in this one, or the
// request may be repeated. This one reads no more. It reports false if what was read is
// not all kept.
func (b *Body) Again() (*Body, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.idle() || !b.whole() || b.closed {
		return nil, false
	}
	rest := &View{of: b, apart: b.fetching}
	again := NewBody(rest, b.length)
	again.former, again.begun = b, b.begun || b.read > 0 || b.fetching
	b.active, b.final, b.passedOn = rest, true, true
	return again, true
}

// Reads tells whether b reads from src, be it by way of a former round trip.
func (b *Body) Reads(src io.ReadCloser) bool {
	return b != nil && (b.src == src || b.former.Reads(src))
}
