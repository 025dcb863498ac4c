package replay

import (
	"errors"
	"io"
	"sync"
)

// MaxKept is how much of a request body is kept for a replay.
const MaxKept = 64 << 10

// errAttemptOver is what an attempt reads that is over.
var errAttemptOver = errors.New("reading request body: the attempt it belonged to is over")

// A Body lets up to two attempts read one request body. What the first one
// reads is kept (up to MaxKept bytes) and read again by the second, which then
// goes on with the rest. An attempt gets a view; closing a view detaches it and
// never waits, and the source is closed exactly once, when the last attempt is
// done with it.
type Body struct {
	src   io.ReadCloser
	views [2]View

	// reading is held while a view reads. It comes before mu.
	reading sync.Mutex

	mu     sync.Mutex
	active *View
	kept   []byte
	lost   bool  // more than MaxKept bytes were read
	err    error // what src.Read ended with
	final  bool  // there will be no further attempt
	closed bool  // src is, or is being, closed
}

// A View is the request body as one attempt sees it.
type View struct {
	of     *Body
	offset int // in kept
	closed bool
}

// NewBody returns a body that reads from src; length is that of the request,
// negative if unknown.
func NewBody(src io.ReadCloser, length int64) *Body {
	b := &Body{src: src}
	if length > 0 && length <= MaxKept {
		b.kept = make([]byte, 0, length)
	}
	b.active = &b.views[0]
	b.active.of = b
	return b
}

// First returns the view of the first attempt.
func (b *Body) First() *View { return &b.views[0] }

func (v *View) Read(p []byte) (int, error) {
	b := v.of
	b.reading.Lock()
	defer b.reading.Unlock()

	b.mu.Lock()
	if v != b.active || v.closed {
		b.mu.Unlock()
		return 0, errAttemptOver
	}
	if v.offset < len(b.kept) && !b.lost {
		n := copy(p, b.kept[v.offset:])
		v.offset += n
		b.mu.Unlock()
		return n, nil
	}
	if b.err != nil || len(p) == 0 {
		defer b.mu.Unlock()
		return 0, b.err
	}
	b.mu.Unlock()

	n, err := b.src.Read(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	if !b.lost {
		if len(b.kept)+n > MaxKept {
			b.lost, b.kept = true, nil
		} else {
			b.kept = append(b.kept, p[:n]...)
			v.offset += n
		}
	}
	return n, err
}

func (v *View) Close() error {
	b := v.of
	b.mu.Lock()
	v.closed = true
	toClose := b.final && v == b.active && !b.closed
	b.closed = b.closed || toClose
	b.mu.Unlock()
	if toClose {
		b.closeSource()
	}
	return nil
}

// Rewindable tells whether a second attempt can read what the first one did.
func (b *Body) Rewindable() bool {
	if b == nil {
		return true
	}
	if !b.reading.TryLock() {
		return false // the first attempt is still at it
	}
	defer b.reading.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost && (b.err == nil || b.err == io.EOF)
}

// Rewind returns the view for a second attempt and takes the body away from
// the first. It reports false if the body turned out not to be rewindable.
func (b *Body) Rewind() (io.ReadCloser, bool) {
	if !b.reading.TryLock() {
		return nil, false
	}
	defer b.reading.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.err != nil && b.err != io.EOF || b.active == &b.views[1] {
		return nil, false
	}
	b.active = &b.views[1]
	b.active.of = b
	return b.active, true
}

// Consumed tells whether any byte was read: from then on, nobody but us can
// send this body whole.
func (b *Body) Consumed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lost || len(b.kept) > 0
}

// Failed tells whether reading the source Failed, as it does when the client
// goes away.
func (b *Body) Failed() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil && b.err != io.EOF
}

// Finish says that there will be no further attempt: the source is closed as
// soon as the current one closes its view.
func (b *Body) Finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.final = true
	toClose := b.active.closed && !b.closed
	b.closed = b.closed || toClose
	b.mu.Unlock()
	if toClose {
		b.closeSource()
	}
}

// Abandon says that the last attempt is over: the source is closed.
func (b *Body) Abandon() {
	if b == nil {
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

// Whole reads the source to its end and keeps it. It reports the length, and
// false if that is more than can be kept.
func (b *Body) Whole() (int64, bool, error) {
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
		case err == io.EOF && !lost:
			return length, true, nil
		case lost:
			return 0, false, nil
		case err != nil:
			return 0, false, err
		}
	}
}
