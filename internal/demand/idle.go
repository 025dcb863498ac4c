package demand

import "time"

const (
	// lately and aMinute are the times whose need of connections counts, for all
	// of them and for so many.
	lately      = 5 * time.Second
	aMinute     = time.Minute
	mostAMinute = 32

	// alwaysKept is how many idle connections are worth keeping in any case.
	alwaysKept = 2

	// trimEvery is how often half of the excess is closed.
	trimEvery = time.Second
)

// Idle says how many idle connections are worth keeping, from how many were lately in
// use at once. An upstream with a worker for each connection has none for others while
// we keep them all. The zero value is ready for use.
type Idle struct {
	lately, minute most
	trimAt         time.Time // zero: there is nothing to trim
}

// InUse notes that n connections are in use.
func (i *Idle) InUse(now time.Time, n int) {
	i.lately.note(now, lately, n)
	i.minute.note(now, aMinute, n)
}

// Kept notes that so many are idle, of which the configuration keeps some. It returns
// when to trim for the first time; zero: there is nothing new to do.
func (i *Idle) Kept(now time.Time, idle, configured int) time.Time {
	if idle <= max(alwaysKept, configured) || !i.trimAt.IsZero() {
		return time.Time{}
	}
	i.trimAt = now.Add(trimEvery)
	return i.trimAt
}

// Trim returns how many of those that are idle are to be closed now, half of what is not
// needed, and when to ask again; zero: not before Kept says so.
func (i *Idle) Trim(now time.Time, idle, configured int) (n int, next time.Time) {
	switch {
	case i.trimAt.IsZero():
	case idle <= max(alwaysKept, configured):
		i.trimAt = time.Time{}
	case !now.Before(i.trimAt):
		i.trimAt = now.Add(lately)
		if excess := idle - i.needed(now, configured); excess > 0 {
			n = (excess + 1) / 2
			i.trimAt = now.Add(trimEvery)
		}
	}
	return n, i.trimAt
}

// needed returns how many idle connections are worth keeping.
func (i *Idle) needed(now time.Time, configured int) int {
	return max(configured, alwaysKept, i.lately.value(now, lately), min(mostAMinute, i.minute.value(now, aMinute)))
}

// most is the largest number noted within a time, and up to as long before.
type most struct {
	since       time.Time
	now, before int
}

func (m *most) note(now time.Time, length time.Duration, n int) {
	if passed := now.Sub(m.since); passed >= length {
		m.before = m.now
		if passed >= 2*length {
			m.before = 0
		}
		m.since, m.now = now, 0
	}
	m.now = max(m.now, n)
}

func (m *most) value(now time.Time, length time.Duration) int {
	m.note(now, length, 0)
	return max(m.now, m.before)
}
