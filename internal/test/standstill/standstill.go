// Package standstill measures for how long a machine that is busy with other things
// does not let a test run. What a test wants to be done within some time, it then wants
// within that much more.
package standstill

import (
	"sync/atomic"
	"time"
)

const tick = 10 * time.Millisecond

// A Watch measures from Begin on.
type Watch struct {
	lost, longest atomic.Int64
	end, ended    chan struct{}
}

// Begin begins to measure, until End.
func Begin() *Watch {
	w := &Watch{end: make(chan struct{}), ended: make(chan struct{})}
	go w.run()
	return w
}

// Of calls f, and returns how long it took, and for how much of that nothing ran.
func Of(f func()) (took, lost time.Duration) {
	w, began := Begin(), time.Now()
	f()
	took, lost = time.Since(began), w.Lost()
	w.End()
	return took, lost
}

func (w *Watch) run() {
	defer close(w.ended)
	for before := time.Now(); ; before = time.Now() {
		select {
		case <-w.end:
			return
		case <-time.After(tick):
			late := int64(time.Since(before) - tick)
			w.lost.Add(late)
			w.longest.Store(max(w.longest.Load(), late))
		}
	}
}

// Lost returns for how long nothing ran so far, all in all.
func (w *Watch) Lost() time.Duration { return time.Duration(w.lost.Load()) }

// End ends it, and returns the longest time in which nothing ran.
func (w *Watch) End() (longest time.Duration) {
	close(w.end)
	<-w.ended
	return time.Duration(w.longest.Load())
}
