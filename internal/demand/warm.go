package demand

import (
	"cmp"
	"time"
)

const (
	// warmFor is how long after its last request a pool keeps connections warm, where
	// nothing else is said.
	warmFor = time.Hour

	// redialAfter is the pause after a dial for them was of no use. It doubles
	// with each one, up to redialAtLast.
	redialAfter  = time.Second
	redialAtLast = time.Minute
)

// Warm says whether connections are opened before anybody needs them, and when. The
// zero value keeps none, until there is a request.
type Warm struct {
	usedAt   time.Time // last request
	renewal  int64     // of the configuration, at that time
	stopped  bool      // since
	retryAt  time.Time // no dial before
	failures int       // dials that were of no use, in a row
}

// Used notes a request, and which renewal of the configuration it comes from.
func (w *Warm) Used(now time.Time, renewal int64) {
	w.usedAt, w.renewal, w.stopped = now, renewal, false
}

// Stop has none kept until the next request.
func (w *Warm) Stop() { w.stopped = true }

// Wanted tells whether connections are to be kept warm: there was a request within the
// time given, or an hour if that is zero, and none of another configuration since.
func (w *Warm) Wanted(now time.Time, within time.Duration, renewal int64) bool {
	return !w.stopped && now.Sub(w.usedAt) < cmp.Or(within, warmFor) && w.renewal == renewal
}

// MayDial tells whether the pause after a dial that was of no use is over.
func (w *Warm) MayDial(now time.Time) bool { return !now.Before(w.retryAt) }

// RetryAt returns when that is.
func (w *Warm) RetryAt() time.Time { return w.retryAt }

// NextLook returns when to look again at what is missing.
func (w *Warm) NextLook(now time.Time) time.Time {
	if soon := now.Add(redialAfter); w.retryAt.Before(soon) {
		return soon
	}
	return w.retryAt
}

// BackOff has dials wait. Several that fail together count as one.
func (w *Warm) BackOff(now time.Time) {
	if !w.MayDial(now) {
		return
	}
	pause := redialAtLast
	if w.failures < 6 {
		pause = min(redialAfter<<w.failures, redialAtLast)
	}
	w.failures++
	w.retryAt = now.Add(pause)
}

// Gone notes the end of a connection that was open for some time, and tells whether it
// had dials wait. What was of no use to anyone so soon would be followed by more of the
// same, as fast as they can be dialed.
func (w *Warm) Gone(now time.Time, used bool, open time.Duration) (waits bool) {
	if used || open >= redialAfter {
		w.failures = 0
		return false
	}
	w.BackOff(now)
	return true
}
