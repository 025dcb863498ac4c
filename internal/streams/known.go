package streams

import (
	"sync/atomic"
	"time"
)

// Known is what is known of an upstream's HTTP/2 connections. It outlives them. The
// zero value knows nothing.
type Known struct {
	limit  atomic.Int32 // how many streams the last one allowed; zero: not known
	usable average      // the time from dial to SETTINGS
}

// Limit returns how many streams the last connection allowed at a time; zero: that is
// not known.
func (k *Known) Limit() int { return int(k.limit.Load()) }

// Usable returns how long it takes from a dial to SETTINGS; zero: that is not known.
func (k *Known) Usable() time.Duration { return k.usable.value() }

// allows notes how many streams a connection allows at a time.
func (k *Known) allows(n int) {
	if n := int32(n); n > 0 && n != k.limit.Load() {
		k.limit.Store(n)
	}
}

// An average of durations counts the last one for a quarter. Two of them noted at
// the same moment may count as one.
type average struct{ d atomic.Int64 }

func (a *average) add(d time.Duration) {
	if old := a.d.Load(); old > 0 {
		d = time.Duration(old) + (d-time.Duration(old))/4
	}
	a.d.Store(max(int64(d), 1))
}

// value returns the average, zero while nothing is known.
func (a *average) value() time.Duration { return time.Duration(a.d.Load()) }
