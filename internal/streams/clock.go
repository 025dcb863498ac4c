package streams

import (
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/linked"
)

// A clock notes when the last stream ended. That may be long before its response is
// read to the end: what has arrived waits in buffers for a slow client, while the
// upstream's idle clock runs.
type clock struct {
	mu       sync.Mutex
	endedAt  time.Time
	arriving linked.List[body]
}

// Ended notes when the last stream ended, if none is under way; began says that there
// was one since.
func (s *Streams) Ended(began bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = s.running || began
	if s.running && s.cc.InFlight() == 0 {
		s.running, s.endedAt = false, time.Now()
	}
}

// AllEndedAt returns when the last stream ended, and whether that is known: there
// was one, none is under way, and net/http is done with all that were reset.
func (s *Streams) AllEndedAt() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endedAt, !s.running && !s.endedAt.IsZero()
}

// LastEnd returns when the last stream ended, or the time given if that is not known.
func (s *Streams) LastEnd(otherwise time.Time) time.Time {
	if at, known := s.AllEndedAt(); known {
		return at
	}
	return otherwise
}
