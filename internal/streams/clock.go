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
	arriving linked.List[Response]
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

// QuietSince returns when the last stream ended, and whether that is known: there
// was one, none is under way, and net/http is done with all that were reset.
func (s *Streams) QuietSince() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endedAt, !s.running && !s.endedAt.IsZero()
}

// LastEnd returns when the last stream ended, or the time given if that is not known.
func (s *Streams) LastEnd(otherwise time.Time) time.Time {
	if at, known := s.QuietSince(); known {
		return at
	}
	return otherwise
}

// A Response arrives from Begin to End.
type Response struct {
	began time.Time
	place linked.Node[Response]
}

// Begin says that a response has begun to arrive.
func (s *Streams) Begin(r *Response, now time.Time) {
	s.answered.Add(1)
	r.began = now
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arriving.Push(&r.place, r)
}

// End says that nobody reads the response any more. It tells whether that is new.
func (s *Streams) End(r *Response) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.arriving.Remove(&r.place)
	if was {
		s.answered.Add(-1)
	}
	return was
}

// Arriving returns how many responses arrive.
func (s *Streams) Arriving() int { return int(s.answered.Load()) }

// Lasts tells whether a response has been arriving for that long.
func (s *Streams) Lasts(now time.Time, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := s.arriving.First()
	return oldest != nil && now.Sub(oldest.began) >= d
}
