package learning

import (
	"slices"
	"time"
)

// A span is the time that a request took.
type span struct{ start, end time.Time }

// oracle returns how many connections a pool opens for requests if it knows
// exactly that a connection can be reused while it has been idle for less than
// keepAlive. It takes the youngest. Where connections are shared, as with HTTP/2, a busy
// one can be used as well.
func oracle(requests []span, keepAlive time.Duration, shared bool) (opened int) {
	var ends []time.Time // of the last request of each connection
	requests = slices.SortedFunc(slices.Values(requests), func(a, b span) int { return a.start.Compare(b.start) })
	for _, r := range requests {
		best := -1
		for i, end := range ends {
			usable := r.start.Sub(end) < keepAlive && (shared || !end.After(r.start))
			if usable && (best < 0 || end.After(ends[best])) {
				best = i
			}
		}
		if best < 0 {
			opened++
			ends = append(ends, r.end)
		} else if r.end.After(ends[best]) {
			ends[best] = r.end
		}
	}
	return opened
}
