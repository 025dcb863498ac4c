package upstreampool

import (
	"container/list"
	"strings"
	"sync"
)

const (
	// maxLabels bounds the values of the upstream label: addresses can be chosen by
	// clients.
	maxLabels = 1000

	// otherLabel stands for upstreams beyond that.
	otherLabel = "other"
)

// labels are the values of the upstream label.
var labels = labelSet{drop: dropSeries}

// A labelSet gives out values of a label, at most maxLabels. One that nobody holds
// any more keeps its metrics, until another one needs its place.
type labelSet struct {
	drop func(name string)

	mu   sync.Mutex
	held map[string]*label
	free list.List // of *label that nobody holds, the one that was given back first in front
}

type label struct {
	name    string
	holders int
	free    *list.Element // nil while held
}

// take returns the label for name: name itself, or "other" if there are too many.
// What is no UTF-8, at which Prometheus panics, is replaced.
func (s *labelSet) take(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD")
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.held[name]
	if l == nil {
		if len(s.held) >= maxLabels && !s.makeRoom() {
			return otherLabel
		}
		if s.held == nil {
			s.held = make(map[string]*label)
		}
		l = &label{name: name}
		s.held[name] = l
	}
	if l.free != nil {
		s.free.Remove(l.free)
		l.free = nil
	}
	l.holders++
	return name
}

// giveBack undoes a take that returned name.
func (s *labelSet) giveBack(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.held[name]
	if l == nil {
		return // "other" has no place
	}
	if l.holders--; l.holders == 0 {
		l.free = s.free.PushBack(l)
	}
}

// makeRoom forgets the label that nobody has held for longest, and reports whether
// there is one.
func (s *labelSet) makeRoom() bool {
	oldest := s.free.Front()
	if oldest == nil {
		return false
	}
	l := s.free.Remove(oldest).(*label)
	delete(s.held, l.name)
	s.drop(l.name)
	return true
}
