package streams

import (
	"io"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/linked"
)

// A body is that of a response. It arrives until nobody reads it any more.
type body struct {
	io.ReadCloser
	of    *Streams
	began time.Time
	place linked.Node[body]
}

// Arrives returns the body of a response that has begun to arrive. It is to be read to
// its end, or closed. Then the function runs that Init was given, once.
func (s *Streams) Arrives(from io.ReadCloser, now time.Time) io.ReadCloser {
	s.answered.Add(1)
	b := &body{ReadCloser: from, of: s, began: now}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arriving.Push(&b.place, b)
	return b
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end()
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}

func (b *body) end() {
	s := b.of
	s.mu.Lock()
	was := s.arriving.Remove(&b.place)
	if was {
		s.answered.Add(-1)
	}
	s.mu.Unlock()
	if was {
		s.read()
	}
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
