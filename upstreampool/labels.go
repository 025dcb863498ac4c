package upstreampool

import (
	"container/list"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

const (
	// maxLabels bounds the values of the upstream label: addresses can be chosen by
	// clients.
	maxLabels = 1000

	// otherLabel stands for upstreams beyond that.
	otherLabel = "other"

	// roomAtOnce is how many labels nobody holds are forgotten together.
	roomAtOnce = maxLabels / 10
)

// labels are the values of the upstream label.
var labels = labelSet{drop: dropSeries}

// A labelSet gives out values of a label, at most maxLabels. One that nobody holds
// any more keeps its metrics, until another one needs its place.
type labelSet struct {
	drop func(names []string) // on a goroutine of its own, since it takes a while

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

// makeRoom forgets the labels that nobody has held for longest, and reports whether
// there are any.
func (s *labelSet) makeRoom() bool {
	var names []string
	for oldest := s.free.Front(); oldest != nil && len(names) < roomAtOnce; oldest = s.free.Front() {
		l := s.free.Remove(oldest).(*label)
		delete(s.held, l.name)
		names = append(names, l.name)
	}
	if names == nil {
		return false
	}
	go s.drop(names)
	return true
}

// dropped holds what [Sums] would lose with the metrics of forgotten labels.
var dropped struct {
	sync.Mutex
	Totals
}

// dropSeries removes the metrics of upstreams.
func dropSeries(upstreams []string) {
	dropped.Lock()
	defer dropped.Unlock()
	dropped.add(func(m *dto.Metric) bool {
		return slices.ContainsFunc(m.GetLabel(), func(pair *dto.LabelPair) bool {
			return pair.GetName() == "upstream" && slices.Contains(upstreams, pair.GetValue())
		})
	})
	for _, upstream := range upstreams {
		match := prometheus.Labels{"upstream": upstream}
		for _, v := range ofUpstreams {
			v.DeletePartialMatch(match)
		}
	}
}
