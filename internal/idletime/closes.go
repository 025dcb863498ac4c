package idletime

import (
	"slices"
	"time"
)

const (
	// restartWindow is how close in time closes of different ages must be to
	// be one restart of the upstream.
	restartWindow = time.Second

	// memory is how long an unconfirmed early close caps the limit, how often
	// a learned value is checked again, and how fast raised margins decay.
	memory = 10 * time.Minute

	// witnessLife is how long a single close waits for a second one.
	witnessLife = time.Hour

	// leastTimeout is the least age of a close that can be an idle timeout. A
	// younger one is the end of a connection at its request limit, which HTTP/2
	// servers announce by GOAWAY and a close after the last response.
	leastTimeout = 50 * time.Millisecond

	// maxWitnesses bounds the single closes remembered. It is small on
	// purpose: of many random ages some two would always agree.
	maxWitnesses = 4
)

// A Close is the observation that the upstream closed an idle connection.
type Close struct {
	At   time.Time
	Idle time.Duration // how long the connection had been idle
	// The idle age at which it was last seen open, at most Idle. A process that
	// is short of time sees closes late, and no more than this is certain.
	Open   time.Duration
	Opened time.Time // when it was opened; zero: unknown
}

// life returns for how long the connection was open, or 0.
func (c Close) life() time.Duration {
	if c.Opened.IsZero() {
		return 0
	}
	return c.At.Sub(c.Opened)
}

// SameAge tells whether two closes can have one timeout as their cause: they are
// within 300 ms or 10 %. Of short ages any two would be, and a busy upstream that
// restarts twice would lose all reuse, so they must be within a quarter as well.
func SameAge(a, b time.Duration) bool {
	larger := max(a, b)
	return (a - b).Abs() <= max(min(300*time.Millisecond, larger/4), larger/10)
}

// closes is what the closes of an upstream taught.
//
// They are judged one second late, in batches: what happens to connections of
// different ages within a second is a restart, and says nothing about a timeout.
// A close becomes the learned value when a second one, at another time, happens
// at the same age, or a third if that lowers what is known. Until then it only
// caps the limit.
type closes struct {
	learned     Optional
	outlived    bool      // learned from a sensor that saw no close
	learnedAt   time.Time // when learned was last seen
	confirmedAt time.Time // when learned was last confirmed; zero: not yet
	outlivers   int       // connections that outlived learned since the last close of that age
	witnesses   []Close   // judged, but confirmed by nothing yet
	batch       batch
	early       early
}

// early is what caps the limit without being confirmed. The zero value caps
// nothing.
type early struct {
	at    time.Time
	idle  time.Duration
	bound Bound // why
}

// A batch holds the closes of one restartWindow.
type batch struct {
	Close              // the earliest of them
	state   batchState // of the candidate that Close is
	earlier early      // what capped the limit before
}

// A batchState says what can become of a batch.
type batchState uint8

const (
	batchNone    batchState = iota // no close waits to be judged
	batchAgrees                    // all closes have one age
	batchRefuted                   // and a connection has outlived that age
	batchMixed                     // the ages differ: a restart
)

// observe notes a close; keepAlive is what the upstream is taken to do.
func (s *closes) observe(c Close, keepAlive time.Duration) {
	c.Open = min(c.Open, c.Idle)
	if s.batch.state == batchNone {
		s.batch = batch{Close: c, state: batchAgrees, earlier: s.early}
		s.cap(early{c.At, c.Idle, BoundEarlyClose}, keepAlive)
		return
	}
	if s.batch.state == batchMixed || !SameAge(c.Idle, s.batch.Idle) {
		s.batch.state = batchMixed
		s.early = s.batch.earlier
		return
	}
	s.batch.Idle, s.batch.Open = min(s.batch.Idle, c.Idle), min(s.batch.Open, c.Open)
	if s.early.at.Equal(s.batch.At) {
		s.early.idle = s.batch.Idle
	}
}

// cap caps the limit, unless it is capped lower already.
func (s *closes) cap(e early, keepAlive time.Duration) {
	if e.idle < keepAlive && (s.early.idle == 0 || e.idle <= s.early.idle) {
		s.early = e
	}
}

// advance judges a batch that is over and lets old caps end. It tells whether
// there is a new learned value.
func (s *closes) advance(now time.Time) (news bool) {
	if s.batch.state != batchNone && now.Sub(s.batch.At) >= restartWindow {
		b := s.batch
		s.batch = batch{}
		if b.state == batchAgrees {
			news = s.judge(b.Close)
		}
	}
	if s.early.idle > 0 && now.Sub(s.early.at) >= memory {
		s.early = early{}
	}
	return news
}

// disregard drops all that closes say but for the learned value, since they turned
// out to have another cause than a timeout.
func (s *closes) disregard() {
	s.witnesses, s.batch, s.early = s.witnesses[:0], batch{}, early{}
}

// undecided tells whether there are closes that a connection can refute.
func (s *closes) undecided() bool {
	return s.batch.state != batchNone || len(s.witnesses) > 0
}

// refute takes back what closes say that a connection idle for age outlived: those
// of a lesser age from before it became idle were restarts. They go on capping the
// limit, to be on the safe side: an address may stand for several servers.
//
// The cap is never below leastCap, so it cannot protect requests from timeouts
// shorter than that. There, outliving the age by anything refutes it.
func (s *closes) refute(now time.Time, age time.Duration) {
	refuted := func(c Close) bool {
		return now.Sub(c.At) >= age && age > c.Idle && (c.Idle < leastCap || !SameAge(age, c.Idle))
	}
	if s.batch.state == batchAgrees && refuted(s.batch.Close) {
		s.batch.state = batchRefuted
	}
	s.witnesses = slices.DeleteFunc(s.witnesses, refuted)
}

// judge decides what one close, not part of a restart, means. It needs a witness.
// To lower a value that is known it needs two: restarts may well meet two
// connections of one age, and the cap keeps requests safe meanwhile.
func (s *closes) judge(c Close) (news bool) {
	s.refute(c.At, c.Open)
	agree := []Close{c}
	for _, w := range s.witnesses {
		if SameAge(c.Idle, w.Idle) && c.At.Sub(w.At) < witnessLife {
			agree = append(agree, w)
		}
	}
	learned, known := s.learned.Get()
	confirms := known && SameAge(c.Idle, learned)
	lowers := known && !confirms && c.Idle < learned
	raises := known && !confirms && !lowers
	if !raises {
		s.outlivers = 0
	}
	if raises && !s.mayRaise() {
		s.remember(c)
		return false
	}
	if len(agree) > 2 || len(agree) == 2 && !lowers {
		return s.learn(c.At, s.earliest(agree))
	}
	// An earlier one needs a witness, too, or restarts would lower the value
	// step by step.
	if confirms && c.Idle >= learned {
		return s.learn(c.At, learned)
	}
	s.remember(c)
	return false
}

// remember keeps a close as a witness.
func (s *closes) remember(c Close) {
	if len(s.witnesses) == maxWitnesses {
		s.witnesses = append(s.witnesses[:0], s.witnesses[1:]...)
	}
	s.witnesses = append(s.witnesses, c)
}

// mayRaise notes that a connection outlived the learned value, and tells whether
// that may be replaced by a larger one. Once it was confirmed that takes several:
// an address may stand for servers with different timeouts, and the shortest
// counts.
func (s *closes) mayRaise() bool {
	_, known := s.learned.Get()
	s.outlivers++
	return !known || s.confirmedAt.IsZero() || s.outlivers >= enoughSeen
}

// earliest returns the least age at which all of these closes may have happened:
// that of the earliest, or of another witness since when all were seen open.
func (s *closes) earliest(agree []Close) time.Duration {
	at, age, open := agree[0].At, agree[0].Idle, agree[0].Open
	for _, c := range agree[1:] {
		age, open = min(age, c.Idle), max(open, c.Open)
	}
	for _, w := range s.witnesses {
		if w.Idle >= open && at.Sub(w.At) < witnessLife {
			age = min(age, w.Idle)
		}
	}
	return age
}

// learn makes d the learned value and tells whether that is another one than
// before. A sensor looks into a new one at once: two restarts may have met
// connections of the same age.
func (s *closes) learn(at time.Time, d time.Duration) (news bool) {
	old, known := s.learned.Get()
	news = !known || !SameAge(d, old)
	s.forget()
	if s.early.idle >= d || SameAge(s.early.idle, d) {
		s.early = early{}
	}
	s.learned, s.learnedAt = Known(d), at
	if !news {
		s.confirmedAt = at
	}
	return news
}

// outlive makes the ceiling the learned value, since a sensor reached it.
func (s *closes) outlive(at time.Time, ceiling time.Duration) (news bool) {
	if learned, known := s.learned.Get(); (!known || !SameAge(learned, ceiling)) && !s.mayRaise() {
		return false
	}
	news = s.learn(at, ceiling)
	s.confirmedAt, s.outlived = at, true
	return news
}

// forget drops what was learned, and all closes that wait for a witness. A cap
// stays for its time: another server behind the address may be the reason.
func (s *closes) forget() {
	*s = closes{batch: s.batch, early: s.early, witnesses: s.witnesses[:0]}
}
