package idletime

import (
	"slices"
	"time"
)

const (
	// patternLife is how long closes count for a pattern.
	patternLife = time.Hour
	maxPattern  = 16

	// lifeSpread is how far the lives of connections may differ that end at one
	// maximum age: gRPC servers vary theirs by 10 % either way.
	lifeSpread = 1.25

	// enoughByAge closes of one age since opening, and of idle ages that differ
	// by idleSpread, are a maximum age.
	enoughByAge = 3
	idleSpread  = 2

	// enoughAtRandom closes of which no two have one idle age are at random. An
	// idle timeout, or a handful of them behind one address, would repeat.
	enoughAtRandom = 8

	// moreThanTimeouts is how many different idle ages are more than the
	// timeouts of different servers behind one address.
	moreThanTimeouts = 5

	// aTimeoutAfterAll closes in a row of one idle age end a pattern.
	aTimeoutAfterAll = 4
)

// A pattern tells closes by other causes than an idle timeout: a maximum age of
// connections, or servers that come and go. Such closes cap nothing and teach
// nothing.
type pattern struct {
	seen     []Close // of different times, in their order
	shown    bool
	distinct int // how many of them have idle ages of which no two agree
}

// observe notes a close and tells whether it begins to show a pattern. Of closes
// within a restartWindow the first counts.
func (p *pattern) observe(c Close) (begins bool) {
	if n := len(p.seen); n > 0 && c.At.Sub(p.seen[n-1].At) < restartWindow {
		return false
	}
	if len(p.seen) == maxPattern {
		p.seen = append(p.seen[:0], p.seen[1:]...)
	}
	p.seen = append(p.seen, c)
	if p.repeats() {
		p.seen = append(p.seen[:0], p.seen[len(p.seen)-aTimeoutAfterAll:]...)
	}
	before := p.shown
	p.judge()
	return p.shown && !before
}

// advance forgets old closes.
func (p *pattern) advance(now time.Time) {
	if len(p.seen) == 0 || now.Sub(p.seen[0].At) < patternLife {
		return
	}
	p.seen = slices.DeleteFunc(p.seen, func(c Close) bool { return now.Sub(c.At) >= patternLife })
	p.judge()
}

func (p *pattern) judge() {
	p.distinct = p.countDistinct()
	p.shown = p.distinct >= enoughAtRandom || p.byAge()
}

// excludesTimeouts tells whether there are so many different ages that not even
// several servers with timeouts of their own explain them.
func (p *pattern) excludesTimeouts() bool { return p.shown && p.distinct >= moreThanTimeouts }

// repeats tells whether the last closes are of one idle age.
func (p *pattern) repeats() bool {
	n := len(p.seen)
	if n < aTimeoutAfterAll {
		return false
	}
	for _, c := range p.seen[n-aTimeoutAfterAll:] {
		if !SameAge(c.Idle, p.seen[n-1].Idle) {
			return false
		}
	}
	return true
}

// countDistinct returns the size of the largest set of idle ages of which no two
// agree.
func (p *pattern) countDistinct() (n int) {
	idle := make([]time.Duration, len(p.seen))
	for i, c := range p.seen {
		idle[i] = c.Idle
	}
	slices.Sort(idle)
	var last time.Duration
	for i, d := range idle {
		if i == 0 || !SameAge(d, last) {
			n, last = n+1, d
		}
	}
	return n
}

// byAge tells whether nearly all connections lived for the same time and were idle
// for different ones.
func (p *pattern) byAge() bool {
	byLife := slices.Clone(p.seen)
	slices.SortFunc(byLife, func(a, b Close) int { return int(a.life() - b.life()) })
	from, n := 0, 0 // the largest group of one life
	for i, first := range byLife {
		end := i
		for end < len(byLife) && float64(byLife[end].life()) <= lifeSpread*float64(first.life()) {
			end++
		}
		if first.life() > 0 && end-i > n {
			from, n = i, end-i
		}
	}
	if n < enoughByAge || 4*n < 3*len(p.seen) {
		return false
	}
	least, most := byLife[from].Idle, byLife[from].Idle
	for _, c := range byLife[from : from+n] {
		least, most = min(least, c.Idle), max(most, c.Idle)
	}
	return most >= idleSpread*least
}
