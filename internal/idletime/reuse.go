package idletime

import (
	"math/bits"
	"time"
)

const (
	// AtOnce is how soon after its response the end of a connection is the
	// upstream's habit and no timeout.
	AtOnce = leastTimeout

	// endsCounted connections are looked back at; where endsAtOnce of them ended
	// at once, connections are not reused.
	endsCounted = 20
	endsAtOnce  = 18

	// endsSure of these must have ended without a request. Otherwise the requests may
	// have been the reason, which one client could send for all.
	endsSure = endsAtOnce / 2

	// endsLook is how often a connection is kept to look whether the habit is gone.
	endsLook = time.Minute
)

// ends is how the last connections ended: a bit is set for each that ended at
// once, after its first response.
type ends struct {
	history uint32
	met     uint32    // those that ended as they carried a second request
	refuted time.Time // when it was last seen that such requests were the reason
}

// atOnce notes a connection that ended at once; met says that it carried a second
// request.
func (e *ends) atOnce(now time.Time, met bool) {
	if met && now.Sub(e.refuted) < lately {
		return
	}
	e.add(1)
	if met {
		e.met |= 1
	}
}

func (e *ends) add(bit uint32) {
	e.history, e.met = (e.history<<1|bit)&(1<<endsCounted-1), e.met<<1&(1<<endsCounted-1)
}

// lasted notes a connection that was of use, or could have been. Where none is
// reused, it was kept to look, and shows that there is no such habit.
func (e *ends) lasted(now time.Time) {
	if e.useless() {
		if !e.sure() {
			e.refuted = now
		}
		e.history, e.met = 0, 0
	}
	e.add(0)
}

// useless tells whether nearly all connections end at once.
func (e *ends) useless() bool { return bits.OnesCount32(e.history) >= endsAtOnce }

// sure tells whether enough of them ended without a request.
func (e *ends) sure() bool { return bits.OnesCount32(e.history&^e.met) >= endsSure }
