package upstreampool

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
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

	// raceInterval is how often races can raise the margin.
	raceInterval = 10 * time.Second
	maxRaces     = 1024
)

// A learner finds out when one upstream closes idle connections, from what its
// connections see. It knows nothing of pools: it is told events and asked for
// limits, with the time passed in.
//
// Closes are judged one second late, in batches: what happens to connections
// of different ages within a second is a restart, and says nothing about a
// timeout. A close becomes knowledge when a second one, at another time,
// happens at the same age, or a third if that lowers what is known, and a sensor
// looks into that. Until then it only lowers the limit.
type learner struct {
	base   knowledge        // what the configuration says
	report func(learnEvent) // called with mu held; may be nil

	suspects atomic.Bool // there may be closes to refute

	mu        sync.Mutex
	learned   time.Duration
	checkedAt time.Time // when learned was last confirmed; zero: not yet
	witnesses []closing // judged, but confirmed by nothing yet
	batch     batch
	early     closing // what caps the limit, unconfirmed
	announced leastOf
	connect   leastOf
	response  leastOf
	races     float64
	racedAt   time.Time
	decayedAt time.Time
	sensing   bool // a sensor is out
	sensedAt  time.Time
}

// A closing is the observation that the upstream closed a connection that had
// been idle for age. A process that is short of time sees closes late: all that is
// certain is that the connection was still there at the age open.
type closing struct {
	age, open time.Duration
	at        time.Time
}

// A batch holds the closes of one restartWindow.
type batch struct {
	closing
	begun   bool
	mixed   bool    // there were different ages
	refuted bool    // a connection has outlived it
	early   closing // what capped the limit before
}

// A learnEvent tells that the keep-alive value of an upstream became known or
// changed.
type learnEvent struct {
	keepAlive time.Duration
	outlived  bool // no close was seen: it is at least that
	broken    time.Duration
	source    Source // of the promise that the upstream broke, if broken > 0
}

// sameAge tells whether two closes can have one timeout as their cause: they are
// within 300 ms or 10 %. Of short ages any two would be, and a busy upstream that
// restarts twice would lose all reuse, so they must be within a quarter as well.
func sameAge(a, b time.Duration) bool {
	larger := max(a, b)
	return (a - b).Abs() <= max(min(300*time.Millisecond, larger/4), larger/10)
}

// sawClose records that the upstream closed a connection after age, which was
// last seen open at the age open.
func (l *learner) sawClose(now time.Time, age, open time.Duration) {
	if age < leastTimeout {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	l.suspects.Store(true)
	c := closing{age, min(open, age), now}
	if !l.batch.begun {
		l.batch = batch{closing: c, begun: true, early: l.early}
		if k, _ := l.knowledge(now).keepAlive(); age < k && (l.early.age == 0 || age <= l.early.age) {
			l.early = c
		}
		return
	}
	if l.batch.mixed || !sameAge(age, l.batch.age) {
		l.batch.mixed = true
		l.early = l.batch.early
		return
	}
	l.batch.age, l.batch.open = min(l.batch.age, age), min(l.batch.open, c.open)
	if l.early.at.Equal(l.batch.at) {
		l.early.age = l.batch.age
	}
}

// survived records that a connection was seen open after it had been idle for
// age. Closes of a lesser age, from before it became idle, were restarts then.
func (l *learner) survived(now time.Time, age time.Duration) {
	if !l.suspects.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	l.refute(now, age)
	l.suspects.Store(l.batch.begun || len(l.witnesses) > 0)
}

// refute takes back what closes say that a connection of that age outlived. They
// go on capping the limit, to be on the safe side: an address may stand for
// several servers. Below leastCap no cap keeps requests from closes that happen,
// so there one outlived by little is no timeout either.
func (l *learner) refute(now time.Time, age time.Duration) {
	refuted := func(c closing) bool {
		return now.Sub(c.at) >= age && age > c.age && (c.age < leastCap || !sameAge(age, c.age))
	}
	l.batch.refuted = l.batch.refuted || l.batch.begun && refuted(l.batch.closing)
	l.witnesses = slices.DeleteFunc(l.witnesses, refuted)
}

// outlived records that a sensor reached the ceiling without being closed: the
// upstream's timeout is at least that. A promise of more stands, or stands again.
func (l *learner) outlived(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	ceiling := l.base.ceiling()
	if promised, source := l.promise(now); source != SourceAssumed && promised >= ceiling {
		l.learned, l.early = 0, closing{}
		l.witnesses = l.witnesses[:0]
		return
	}
	l.learn(now, ceiling, true)
}

// raced records that a request met a connection which was being closed, and
// got no response byte.
func (l *learner) raced(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	if !l.racedAt.IsZero() && now.Sub(l.racedAt) < raceInterval {
		return
	}
	l.races = min(2*max(l.races, 1), maxRaces)
	l.racedAt, l.decayedAt = now, now
}

// announce records a timeout from a Keep-Alive field.
func (l *learner) announce(now time.Time, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.announced.add(now, d)
}

// connected records how long the TCP handshake took, a round trip.
func (l *learner) connected(now time.Time, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.connect.add(now, d)
}

// responded records the time from the last byte of a request to the first of
// its response: a round trip and the work of the upstream. Through a proxy
// nearby it is the only sign of a long way.
func (l *learner) responded(now time.Time, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.response.add(now, d)
}

// limit returns the idle limit of a connection that itself announced own (or,
// without has, nothing).
func (l *learner) limit(now time.Time, own time.Duration, has bool) Limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	k := l.knowledge(now)
	if has {
		k.Announced, k.HasAnnounced = own, true
	}
	return k.limit()
}

// unusedLimit returns the idle limit of a connection that has carried no request.
func (l *learner) unusedLimit(now time.Time) Limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	k := l.knowledge(now)
	k.Unused = true
	return k.limit()
}

// startSensor tells whether a connection that reached its limit is to be kept
// aside, to see when the upstream closes it. There is at most one; whoever gets
// true calls endSensor.
func (l *learner) startSensor(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(now)
	if l.sensing {
		return false
	}
	k := l.knowledge(now)
	limit := k.limit()
	var want bool
	switch {
	case limit.bound == boundTooShort:
		want = limit.Source != SourceAnnounced && now.Sub(l.sensedAt) >= memory
	case limit.Source == SourceAssumed, k.EarlyClose > 0:
		want = true
	case limit.Source == SourceLearned:
		want = len(l.witnesses) > 0 || now.Sub(l.checkedAt) >= memory
	}
	if want {
		l.sensing, l.sensedAt = true, now
	}
	return want
}

// endSensor allows for the next sensor.
func (l *learner) endSensor() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sensing = false
}

// knowledge gathers what the limit depends on.
func (l *learner) knowledge(now time.Time) knowledge {
	k := l.base
	k.Announced, k.HasAnnounced = l.announced.value(now)
	k.Learned = l.learned
	k.EarlyClose = l.early.age
	k.Connect, _ = l.connect.value(now)
	k.Response, _ = l.response.value(now)
	k.Races = l.races
	return k
}

// promise returns what K would be if nothing had been learned.
func (l *learner) promise(now time.Time) (time.Duration, Source) {
	k := l.knowledge(now)
	k.Learned = 0
	return k.keepAlive()
}

// settle lets time have its effect: batches are judged, caps and raised
// margins age.
func (l *learner) settle(now time.Time) {
	if l.batch.begun && now.Sub(l.batch.at) >= restartWindow {
		b := l.batch
		l.batch = batch{}
		if !b.mixed && !b.refuted {
			l.judge(b.closing)
		}
	}
	if l.early.age > 0 && now.Sub(l.early.at) >= memory {
		l.early = closing{}
	}
	if l.races > 1 {
		if periods := now.Sub(l.decayedAt) / memory; periods > 0 {
			l.races *= math.Pow(0.9, float64(periods))
			l.decayedAt = l.decayedAt.Add(periods * memory)
		}
	}
}

// judge decides what one close, not part of a restart, means. It needs a witness.
// To lower a value that is known it needs two: restarts may well meet two
// connections of one age, and the cap keeps requests safe meanwhile.
func (l *learner) judge(c closing) {
	l.refute(c.at, c.open)
	agree := []closing{c}
	for _, w := range l.witnesses {
		if sameAge(c.age, w.age) && c.at.Sub(w.at) < witnessLife {
			agree = append(agree, w)
		}
	}
	confirms := l.learned > 0 && sameAge(c.age, l.learned)
	lowers := l.learned > 0 && !confirms && c.age < l.learned
	if len(agree) > 2 || len(agree) == 2 && !lowers {
		l.learn(c.at, l.earliest(agree), false)
		return
	}
	// An earlier one needs a witness, too, or restarts would lower the value
	// step by step.
	if confirms && c.age >= l.learned {
		l.learn(c.at, l.learned, false)
		return
	}
	if len(l.witnesses) == maxWitnesses {
		l.witnesses = append(l.witnesses[:0], l.witnesses[1:]...)
	}
	l.witnesses = append(l.witnesses, c)
}

// earliest returns the least age at which all of these closes may have happened:
// that of the earliest, or of another witness since when all were seen open.
func (l *learner) earliest(closes []closing) time.Duration {
	at, age, open := closes[0].at, closes[0].age, closes[0].open
	for _, c := range closes[1:] {
		age, open = min(age, c.age), max(open, c.open)
	}
	for _, w := range l.witnesses {
		if w.age >= open && at.Sub(w.at) < witnessLife {
			age = min(age, w.age)
		}
	}
	return age
}

// learn makes d the learned value. A new one is looked into by a sensor at once:
// two restarts may have met connections of the same age.
func (l *learner) learn(now time.Time, d time.Duration, outlived bool) {
	news := l.learned == 0 || !sameAge(d, l.learned)
	l.learned, l.checkedAt = d, now
	if news && !outlived {
		l.checkedAt = time.Time{}
	}
	l.witnesses = l.witnesses[:0]
	l.early = closing{}
	if !news || l.report == nil {
		return
	}
	e := learnEvent{keepAlive: d, outlived: outlived}
	promised, promise := l.promise(now)
	if _, source := l.knowledge(now).keepAlive(); source == SourceLearned && promise != SourceAssumed {
		e.broken, e.source = promised, promise
	}
	l.report(e)
}

// leastOf is the least of the durations added in the last 10 to 20 minutes.
type leastOf struct {
	since        time.Time
	now, earlier time.Duration
	hasNow       bool
	hasEarlier   bool
}

func (m *leastOf) rotate(now time.Time) {
	age := now.Sub(m.since)
	if age < memory {
		return
	}
	m.earlier, m.hasEarlier = m.now, m.hasNow && age < 2*memory
	m.now, m.hasNow = 0, false
	m.since = now
}

func (m *leastOf) add(now time.Time, d time.Duration) {
	m.rotate(now)
	if !m.hasNow || d < m.now {
		m.now, m.hasNow = d, true
	}
}

func (m *leastOf) value(now time.Time) (time.Duration, bool) {
	m.rotate(now)
	switch {
	case m.hasNow && m.hasEarlier:
		return min(m.now, m.earlier), true
	case m.hasNow:
		return m.now, true
	default:
		return m.earlier, m.hasEarlier
	}
}
