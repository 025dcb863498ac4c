package idletime

import "math/bits"

const (
	// AtOnce is how soon after its response the end of a connection is the
	// upstream's habit and no timeout.
	AtOnce = leastTimeout

	// endsCounted connections are looked back at; where endsAtOnce of them ended
	// at once, connections are not reused.
	endsCounted = 20
	endsAtOnce  = 18
)

// ends is how the last connections ended: a bit is set for each that ended at
// once, after its first response.
type ends struct {
	history uint32
}

func (e *ends) atOnce() {
	e.history = (e.history<<1 | 1) & (1<<endsCounted - 1)
}

// lasted notes a connection that was of use, or could have been. Where none is
// reused, it was kept to look, and shows that the habit is gone.
func (e *ends) lasted() {
	if e.useless() {
		e.history = 0
	}
	e.history = e.history << 1 & (1<<endsCounted - 1)
}

// useless tells whether nearly all connections end at once.
func (e *ends) useless() bool { return bits.OnesCount32(e.history) >= endsAtOnce }
