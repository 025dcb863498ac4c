package idletime

import (
	"cmp"
	"slices"
	"time"
)

const (
	// patternLife is how long closes count for a pattern.
	patternLife = time.Hour
	maxPattern  = 32

	// lifeSpread is how far the lives of connections may differ that end at one
	// maximum age: gRPC servers vary theirs by 10 % either way.
	lifeSpread = 1.25

	// enoughByAge closes of one age since opening, and of idle ages that differ
	// by idleSpread, are a maximum age.
	enoughByAge = 3
	idleSpread  = 2

	// sameLife is how far lives may differ where the idle ages do not: a client whose
	// requests come at regular intervals.
	sameLife = 1.05

	// enoughAtRandom closes of which no two have one idle age are at random. An
	// idle timeout, or a handful of them behind one address, would repeat.
	enoughAtRandom = 8

	// moreThanTimeouts is how many different idle ages are more than the
	// timeouts of different servers behind one address.
	moreThanTimeouts = 5

	// aTimeoutAfterAll closes in a row of closely the same idle age end a pattern.
	aTimeoutAfterAll = 5
)

// A pattern tells closes by other causes than an idle timeout: a maximum age of
// connections, or servers that come and go. Such closes cap nothing and teach
// nothing.
type pattern struct {
	seen     []Close // of different times, in their order
	shown    bool
	random   bool          // by closes at random
	life     time.Duration // the maximum age, where that is the pattern
	distinct int           // how many of them have idle ages of which no two agree
}

// observe notes a close. Of closes within a restartWindow the first counts.
func (p *pattern) observe(c Close) {
	if n := len(p.seen); n > 0 && c.At.Sub(p.seen[n-1].At) < restartWindow {
		return
	}
	if len(p.seen) == maxPattern {
		p.seen = append(p.seen[:0], p.seen[1:]...)
	}
	p.seen = append(p.seen, c)
	if p.repeats() {
		p.seen = append(p.seen[:0], p.seen[len(p.seen)-aTimeoutAfterAll:]...)
	}
	p.judge()
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
	p.life = p.byAge()
	p.random = p.distinct >= enoughAtRandom || p.random && p.distinct >= moreThanTimeouts
	p.shown = p.random || p.life > 0
}

// excludesTimeouts tells whether there are so many different ages that not even
// several servers with timeouts of their own explain them.
func (p *pattern) excludesTimeouts() bool { return p.shown && p.distinct >= moreThanTimeouts }

// later tells whether more closes happened clearly later than at that idle age: it is
// the timeout of few servers, or none.
func (p *pattern) later(idle time.Duration) bool {
	n := 0
	for _, c := range p.seen {
		switch {
		case SameAge(c.Idle, idle):
			n--
		case c.Idle > idle:
			n++
		}
	}
	return n > 0
}

// strays returns how many closes agree neither with idle nor with what is known.
func (p *pattern) strays(idle time.Duration, known Optional) (n int) {
	value, ok := known.Get()
	for _, c := range p.seen {
		if !SameAge(c.Idle, idle) && (!ok || !SameAge(c.Idle, value)) {
			n++
		}
	}
	return n
}

// repeats tells whether the last closes are of one idle age, and not just of one age
// since opening, as those of connections that were used once.
func (p *pattern) repeats() bool {
	n := len(p.seen)
	if n < aTimeoutAfterAll {
		return false
	}
	last := p.seen[n-aTimeoutAfterAll:]
	least, most := spread(last, func(c Close) time.Duration { return c.Idle })
	shortest, longest := spread(last, Close.life)
	return most-least <= max(50*time.Millisecond, most/10) &&
		(shortest == 0 || float64(longest) > lifeSpread*float64(shortest))
}

// alike tells whether two closes by chance, rather than by two timeouts, would have to
// be taken for one. Of short ages [SameAge] takes half of all there are for one.
func alike(a, b time.Duration) bool {
	larger := max(a, b)
	return (a - b).Abs() <= max(min(300*time.Millisecond, larger/8), larger/10)
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
		if i == 0 || !alike(d, last) {
			n, last = n+1, d
		}
	}
	return n
}

// byAge returns the age that nearly all connections reached, if they were idle for
// different times, or 0.
func (p *pattern) byAge() time.Duration {
	byLife := slices.Clone(p.seen)
	slices.SortFunc(byLife, func(a, b Close) int { return cmp.Compare(a.life(), b.life()) })
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
		return 0
	}
	group := byLife[from : from+n]
	least, most := spread(group, func(c Close) time.Duration { return c.Idle })
	if most < idleSpread*least && !regular(group) {
		return 0
	}
	return group[n/2].life()
}

// regular tells whether closes, the shortest life first, came at one age, of connections
// that had all been idle for longer before.
func regular(byLife []Close) bool {
	for _, c := range byLife {
		if !c.outlived() {
			return false
		}
	}
	shortest, longest := byLife[0].life(), byLife[len(byLife)-1].life()
	return float64(longest) <= sameLife*float64(shortest)
}

// explains tells whether the pattern is that connections end at the age of this one,
// which was not idle for longer than before.
func (p *pattern) explains(c Close) bool {
	return p.life > 0 && c.outlived() &&
		float64(max(c.life(), p.life)) <= lifeSpread*float64(min(c.life(), p.life))
}

// spread returns the least and the largest of a property of closes.
func spread(closes []Close, of func(Close) time.Duration) (least, most time.Duration) {
	least, most = of(closes[0]), of(closes[0])
	for _, c := range closes[1:] {
		least, most = min(least, of(c)), max(most, of(c))
	}
	return least, most
}
