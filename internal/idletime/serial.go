package idletime

import "time"

const (
	leastPatience = time.Second

	// serialLife is how long an upstream counts as one that serves one
	// connection at a time; yieldPause is the time between attempts to find out,
	// where they do not help.
	serialLife = time.Hour
	yieldPause = lately
)

// serial is what is known of whether the upstream serves one connection at a time.
// Such a server does not answer on a new connection while an idle one is open.
// Closing the idle ones for it (yielding) shows whether that is so, if it helps twice.
// Some page may take so long that its response is due just then. The second time comes
// after half as long again, so that the same page is answered before.
type serial struct {
	until    time.Time // it is, as far as is known
	helpedAt time.Time // when yielding last helped and none since did not; zero: never
	notTried time.Time // no yielding before that
}

// Patience is how long a request on a fresh connection waits for its first byte
// before idle connections yield to it: longer than usual responses take.
func (l *Learner) Patience(now time.Time) time.Duration {
	l.begin(now)
	defer l.end()
	p := max(leastPatience, 3*l.margins.usual)
	if l.serial.suspected(now) {
		p += p / 2
	}
	return p
}

// MayYield tells whether closing idle connections for a request that waits for its
// first byte may be tried.
func (l *Learner) MayYield(now time.Time) bool {
	l.begin(now)
	defer l.end()
	return !now.Before(l.serial.notTried)
}

// Yielded records whether it helped to close idle connections: a byte came right after.
func (l *Learner) Yielded(now time.Time, helped bool) {
	l.begin(now)
	defer l.end()
	s := &l.serial
	switch {
	case !helped:
		s.helpedAt, s.notTried = time.Time{}, now.Add(yieldPause)
	case s.suspected(now):
		s.helpedAt, s.until = time.Time{}, now.Add(serialLife)
	default:
		s.helpedAt = now
	}
}

// Serial tells whether the upstream is known to serve one connection at a time:
// there is no sensor then, and no second connection should be opened beside an
// idle one.
func (l *Learner) Serial(now time.Time) bool {
	l.begin(now)
	defer l.end()
	return l.serial.known(now)
}

func (s *serial) known(now time.Time) bool { return now.Before(s.until) }

// suspected tells whether yielding has helped once.
func (s *serial) suspected(now time.Time) bool { return now.Before(s.helpedAt.Add(serialLife)) }
