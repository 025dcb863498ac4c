package idletime

import (
	"slices"
	"time"
)

const (
	// restartWindow is how close in time closes of different ages must be to
	// be one restart of the upstream.
	restartWindow = time.Second

	// lately is how long an unconfirmed early close caps the limit, how often
	// a learned value is checked again, and how fast raised margins decay.
	lately = 10 * time.Minute

	// witnessLife is how long a single close waits for a second one.
	witnessLife = time.Hour

	// leastTimeout is the least age of a close that can be an idle timeout. A
	// younger one is the end of a connection at its request limit, which HTTP/2
	// servers announce by GOAWAY and a close after the last response.
	leastTimeout = 50 * time.Millisecond

	// mostNeeded is how many closes must agree at most to be a timeout. Below shortest
	// it always takes so many: where nothing is reused, it hardly shows that a value is
	// wrong, and an upstream that closes so soon does it often.
	mostNeeded = 4
	shortest   = 250 * time.Millisecond

	// maxWitnesses bounds the single closes remembered.
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
	// The largest idle age after which it answered a request.
	Answered time.Duration
}

// outlived tells whether the connection had been idle for longer before, and answered: no
// idle timeout ended it. Some servers look at their timers once a second, and may close
// earlier than the last time. Those have closed others that had not answered.
func (c Close) outlived() bool { return c.Answered > c.Idle }

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

// Tolerance is how exactly the age of a close must be known to count.
func Tolerance(age time.Duration) time.Duration {
	return max(300*time.Millisecond, age/10)
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

	outlivers int       // connections that outlived it since
	opened    time.Time // when the last of them was opened
}

// outlived notes a sighting and tells whether it shows that the cap's reason was no
// timeout of all servers: the connection became idle after it, and was open for
// clearly longer. Where requests were lost, only an answer shows that: connections on a
// dead path stay open.
func (e *early) outlived(s Sighting) bool {
	if e.bound == BoundSilence && s.Proof != Answered {
		return false
	}
	if e.idle == 0 || s.At.Sub(e.at) < s.Idle || !clearlyLonger(s.Idle, e.idle) {
		return false
	}
	if s.Opened.Sub(e.opened).Abs() >= openedApart {
		e.outlivers, e.opened = e.outlivers+1, s.Opened
	}
	return true
}

// clearlyLonger tells whether a connection idle for age shows that a close after
// idle was no timeout. Closes before leastCap cap nothing: there, anything longer
// will do.
func clearlyLonger(age, idle time.Duration) bool {
	return age > idle && (idle < leastCap || !SameAge(age, idle))
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

// observe notes a close; keepAlive is what the upstream is taken to do. A cap is never
// below leastCap, so it protects no request from shorter timeouts: connections do not
// get older than those.
func (s *closes) observe(c Close, keepAlive time.Duration) {
	c.Open = min(c.Open, c.Idle)
	if s.batch.state == batchNone {
		s.batch = batch{Close: c, state: batchAgrees, earlier: s.early}
		switch {
		case c.outlived():
			s.batch.state = batchRefuted
		case c.Idle > leastCap:
			s.cap(early{at: c.At, idle: c.Idle, bound: BoundEarlyClose}, keepAlive)
		}
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
// there is a new learned value. History holds the closes lately.
func (s *closes) advance(now time.Time, history *pattern) (news bool) {
	if s.batch.state != batchNone && now.Sub(s.batch.At) >= restartWindow {
		b := s.batch
		s.batch = batch{}
		if b.state == batchAgrees {
			news = s.judge(b.Close, history)
		}
	}
	if s.early.idle > 0 && now.Sub(s.early.at) >= lately {
		s.early = early{}
	}
	return news
}

// disregard drops what closes say but for the learned value, since they turned out
// to have another cause than a timeout.
func (s *closes) disregard() {
	s.witnesses, s.batch, s.early = s.witnesses[:0], batch{}, early{}
}

// disown forgets a learned value, if the pattern shows that there is no timeout: one that
// nothing confirmed, that most connections outlive, or that is the age at which they end.
func (s *closes) disown(p *pattern) {
	learned, _ := s.learned.Get()
	if s.confirmedAt.IsZero() || p.later(learned) || p.life > 0 && SameAge(learned, p.life) {
		s.forget()
	}
}

// undecided tells whether there are closes that a connection can refute.
func (s *closes) undecided() bool {
	return s.batch.state != batchNone || len(s.witnesses) > 0 || s.early.idle > 0
}

// refute takes back what closes say that a connection outlived: those of a lesser
// age from before it became idle were restarts. It tells whether the sighting says
// something about what caps the limit. The cap ends when as many connections
// outlived it as are evidence, and not earlier, since an address may stand for
// several servers. The more different ages there were, the less likely is one more
// server, and the fewer it takes.
func (s *closes) refute(seen Sighting, history *pattern) (ofCap bool) {
	refuted := func(c Close) bool { return seen.At.Sub(c.At) >= seen.Idle && clearlyLonger(seen.Idle, c.Idle) }
	if s.batch.state == batchAgrees && refuted(s.batch.Close) {
		s.batch.state = batchRefuted
	}
	s.witnesses = slices.DeleteFunc(s.witnesses, refuted)
	ofCap = s.early.outlived(seen)
	if s.early.outlivers >= max(2, enoughSeen+1-history.distinct) {
		s.early = early{}
	}
	return ofCap
}

// judge decides what one close, not part of a restart, means. It needs witnesses,
// and more of them the more closes there were lately that do not agree: of many
// ages by chance, some always do. To lower a value that is known it needs two:
// restarts may well meet two connections of one age, and the cap keeps requests
// safe meanwhile.
func (s *closes) judge(c Close, history *pattern) (news bool) {
	s.refute(Sighting{At: c.At, Idle: c.Open, Opened: c.Opened}, history)
	agree := []Close{c}
	for _, w := range s.witnesses {
		if SameAge(c.Idle, w.Idle) && c.At.Sub(w.At) < witnessLife {
			agree = append(agree, w)
		}
	}
	need := min(2+history.strays(c.Idle, s.learned)/2, mostNeeded)
	if c.Idle < shortest {
		need = mostNeeded
	}
	learned, known := s.learned.Get()
	switch {
	case !known:
	case SameAge(c.Idle, learned):
		s.outlivers = 0
		// An earlier one needs a witness, too, or restarts would lower the value
		// step by step.
		if c.Idle >= learned {
			return s.learn(c.At, learned)
		}
	case c.Idle < learned:
		s.outlivers = 0
		need = max(need, 3)
	case !s.mayRaise():
		s.remember(c)
		return false
	}
	if len(agree) >= need {
		return s.learn(c.At, s.earliest(agree))
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
