package replay

import (
	"io"
	"slices"
)

// A View is the request body as one attempt sees it.
type View struct {
	of     *Body
	offset int // in kept
	closed bool
	apart  bool
}

// ReadApart has the source read on a goroutine of its own, for the attempt that is
// about to begin. Closing the view then ends a Read that waits for the client. HTTP/2 of
// net/http needs that: it returns no error, and lets no response be closed, before that
// Read is over. A client may wait for just these.
func (b *Body) ReadApart() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.active.apart = true
}

// Read implements io.Reader.
func (v *View) Read(p []byte) (int, error) {
	if v.apart {
		return v.await(p)
	}
	b := v.of
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	n, ready, err := v.serve(p)
	b.mu.Unlock()
	if ready {
		return n, err
	}
	n, err = b.src.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(n, err)
	if !b.lost {
		b.kept = append(b.kept, p[:n]...)
		v.offset += n
	}
	b.release()
	return n, b.err
}

// await is Read for a view whose source is read apart.
func (v *View) await(p []byte) (int, error) {
	b := v.of
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if n, ready, err := v.serve(p); ready {
			return n, err
		}
		if !b.fetching {
			b.fetching = true
			go b.fetch(b.room())
		}
		b.fetched.Wait()
	}
}

// serve reads what is there already. It reports false if the source has to be read.
// The lock is held.
func (v *View) serve(p []byte) (n int, ready bool, err error) {
	b := v.of
	switch {
	case v != b.active || v.closed:
		return 0, true, errAttemptOver
	case v.offset < len(b.kept):
		n = copy(p, b.kept[v.offset:])
		v.offset += n
		b.release()
		return n, true, nil
	}
	return 0, b.err != nil || len(p) == 0, b.err
}

// Sizes of what is read apart: a client that sends little at a time costs little, as
// long as its request lasts.
const (
	leastRoom = 1 << 10
	mostRoom  = 32 << 10
)

// room returns what the next fetch reads into, behind what is kept. The lock is held.
func (b *Body) room() []byte {
	if b.length > 0 && b.read >= b.length {
		return b.beyond[:]
	}
	if b.kept == nil {
		b.kept, b.scratch = b.scratch[:0], nil
	}
	if free := cap(b.kept) - len(b.kept); free < leastRoom && (free == 0 || b.length <= 0) {
		b.kept = slices.Grow(b.kept, b.atATime)
	}
	return b.kept[len(b.kept):cap(b.kept)]
}

// fetch reads the source once, into buf.
func (b *Body) fetch(buf []byte) {
	n, err := b.readSource(buf)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(n, err)
	if n >= b.atATime {
		b.atATime = min(2*b.atATime, mostRoom)
	}
	b.kept = append(b.kept, buf[:n]...) // most often it is there already
	b.release()
	b.fetching = false
	b.fetched.Broadcast()
}

// readSource reads the source, unless that is closed already.
func (b *Body) readSource(buf []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return 0, errAttemptOver
	}
	return b.src.Read(buf)
}

// note notes what a Read of the source returned. The lock is held.
func (b *Body) note(n int, err error) {
	b.read += int64(n)
	if b.length > 0 && (b.read > b.length || err == io.EOF && b.read < b.length) {
		err = errWrongLength
	}
	b.err = err
	b.lost = b.lost || b.read > MaxKept
}

// release frees what is kept once nobody will read it: it is more than can be
// kept, or there will be no further attempt, and the current one has read it. A
// response may stream for hours after that. The lock is held.
func (b *Body) release() {
	if b.active.offset < len(b.kept) || !b.lost && !b.final {
		return
	}
	if b.active.apart && cap(b.kept) <= mostRoom {
		b.scratch = b.kept[:cap(b.kept)]
	}
	b.lost, b.kept, b.active.offset = true, nil, 0
	if b.err != nil {
		b.scratch = nil
	}
}

// Close implements io.Closer.
func (v *View) Close() error {
	b := v.of
	b.mu.Lock()
	v.closed = true
	toClose := b.final && v == b.active && !b.closed
	b.closed = b.closed || toClose
	b.fetched.Broadcast()
	b.mu.Unlock()
	if toClose {
		b.closeSource()
	}
	return nil
}
