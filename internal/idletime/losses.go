package idletime

import (
	"slices"
	"time"
)

const (
	// manyLosses is how many losses at different times are no outages.
	manyLosses = 3

	// noticed is how long it takes to notice an outage: requests that were sent within
	// that time may have met the same one, whenever they were given up.
	noticed = 3 * time.Second
)

// losses are those lately of requests on connections that had been idle for less than
// half of their limit.
type losses []loss

type loss struct {
	sent time.Time
	idle time.Duration
}

// add adds a loss, and returns the least age of those there are, and whether they are
// enough. Those of one moment count once: after the first, the pool closes what has
// been idle for as long, so a later one is of a connection that has worked since.
func (s *losses) add(now, sent time.Time, idle time.Duration) (least time.Duration, enough bool) {
	*s = slices.DeleteFunc(*s, func(l loss) bool { return now.Sub(l.sent) >= lately })
	if idle < freshEnough {
		return 0, false
	}
	same := slices.IndexFunc(*s, func(l loss) bool { return sent.Sub(l.sent).Abs() < noticed })
	switch {
	case same >= 0:
		(*s)[same].idle = min((*s)[same].idle, idle)
	case len(*s) == manyLosses:
		*s = append((*s)[1:], loss{sent, idle})
	default:
		*s = append(*s, loss{sent, idle})
	}
	least = idle
	for _, l := range *s {
		least = min(least, l.idle)
	}
	return least, len(*s) == manyLosses
}
