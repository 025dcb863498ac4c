package idletime

import (
	"slices"
	"time"
)

// manyLosses is how many losses at different times are no outages.
const manyLosses = 3

// losses are those lately of requests on connections that had been idle for less than
// half of their limit.
type losses []loss

type loss struct {
	at   time.Time
	idle time.Duration
}

// add adds a loss, and returns the least age of those there are, and whether they are
// enough. Those of one moment count once: after the first, the pool closes what has
// been idle for as long, so a later one is of a connection that has worked since.
func (s *losses) add(now time.Time, idle time.Duration) (least time.Duration, enough bool) {
	*s = slices.DeleteFunc(*s, func(l loss) bool { return now.Sub(l.at) >= memory })
	if idle < freshEnough {
		return 0, false
	}
	switch last := len(*s) - 1; {
	case last >= 0 && now.Sub((*s)[last].at) < restartWindow:
		(*s)[last].idle = min((*s)[last].idle, idle)
	case len(*s) == manyLosses:
		*s = append((*s)[1:], loss{now, idle})
	default:
		*s = append(*s, loss{now, idle})
	}
	least = idle
	for _, l := range *s {
		least = min(least, l.idle)
	}
	return least, len(*s) == manyLosses
}
