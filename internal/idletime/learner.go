package idletime

import (
	"sync"
	"sync/atomic"
	"time"
)

// A Learner finds out when one upstream closes idle connections, from what its
// connections see. It knows nothing of pools and has no clock: it is told events
// and asked for limits, with the time passed in. Its methods may be called at the
// same time.
type Learner struct {
	config Config
	report func(Event)

	watching atomic.Bool // sightings of open connections may say something

	mu         sync.Mutex
	closes     closes
	losses     losses
	pattern    pattern
	evidence   evidence
	ends       ends
	margins    margins
	announced  leastOf
	imported   Memory
	remembered Optional // imported, and young enough to count
	sensor     sensorGate
	serial     serial
	known      knowledge // what the limit depends on, gathered anew each time
	stands     standing  // the limit that was computed last
	observed   int       // closes
	events     []Event   // to be reported once mu is free
}

// An Event tells that the keep-alive value of an upstream became known or
// changed.
type Event struct {
	KeepAlive time.Duration
	Outlived  bool // no close was seen: the value is at least that
	// What was promised, if the upstream closes earlier than that; else 0.
	Broken time.Duration
	Source Source // of that promise
}

// NewLearner returns a Learner that knows nothing but config. It calls report,
// which may be nil, from its methods, with no lock of its own held.
func NewLearner(config Config, report func(Event)) *Learner {
	l := &Learner{config: config, report: report}
	l.watching.Store(true)
	return l
}

// Config returns what the configuration says.
func (l *Learner) Config() Config { return l.config }

// begin locks the learner and lets time take effect.
func (l *Learner) begin(now time.Time) {
	l.mu.Lock()
	l.advance(now)
}

// advance lets time take effect. It is the only place where it does.
func (l *Learner) advance(now time.Time) {
	l.stands = standing{}
	l.margins.advance(now)
	l.announced.advance(now)
	l.pattern.advance(now)
	if l.closes.advance(now, &l.pattern) {
		l.learned(now)
	}
}

// end unlocks the learner and reports what happened meanwhile.
func (l *Learner) end() {
	if watch := l.assumes() || l.closes.undecided(); watch != l.watching.Load() {
		l.watching.Store(watch)
	}
	events := l.events
	l.events = nil
	l.mu.Unlock()
	if l.report == nil {
		return
	}
	for _, e := range events {
		l.report(e)
	}
}

// SawClose records that the upstream closed an idle connection.
func (l *Learner) SawClose(c Close) {
	if c.Idle < leastTimeout {
		return
	}
	l.begin(c.At)
	defer l.end()
	l.observed++
	l.beaten(c.Idle)
	l.pattern.observe(c)
	if l.pattern.excludesTimeouts() {
		l.closes.disown(&l.pattern)
	} else if !l.pattern.explains(c) {
		l.evidence.retract(c.Idle)
	}
	if l.pattern.shown {
		l.closes.disregard()
		return
	}
	keepAlive, _ := l.knowledge(c.At).keepAlive()
	l.closes.observe(c, keepAlive)
}

// Observed returns how many closes were recorded that say something about the
// upstream's timeout.
func (l *Learner) Observed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.observed
}

// SawOpen records that a connection was seen open. What only silence shows
// teaches nothing, and neither does an age at which nobody closes connections.
func (l *Learner) SawOpen(s Sighting) {
	if s.Proof == Silence || s.Idle < leastTimeout || !l.watching.Load() {
		return
	}
	l.begin(s.At)
	defer l.end()
	l.sawOpen(s)
}

// SensorSawOpen records that the sensor was seen open, and tells whether it has
// seen enough and is to be closed. One that reaches the ceiling shows that the
// upstream's timeout is at least that; a promise of more stands, or stands again.
// Where a close caps the limit, a sensor that outlived it makes room for the next.
func (l *Learner) SensorSawOpen(s Sighting) (enough bool) {
	ceiling := l.config.Ceiling()
	if s.Proof == Silence {
		return s.Idle >= ceiling
	}
	l.begin(s.At)
	defer l.end()
	if l.ends.useless() && s.Idle >= AtOnce {
		l.ends.lasted(s.At)
	}
	if s.Idle < ceiling {
		return l.sawOpen(s)
	}
	l.sawOpen(s)
	if promised, source := l.knowledge(s.At).promise(); source.promised() && promised >= ceiling {
		if l.closes.mayRaise() {
			l.closes.forget()
		}
	} else if l.closes.outlive(s.At, ceiling) {
		l.learned(s.At)
	}
	return true
}

// sawOpen tells whether the sighting says something about what caps the limit.
func (l *Learner) sawOpen(s Sighting) (ofCap bool) {
	if s.Idle >= freshEnough {
		l.evidence.add(s)
	}
	return l.closes.refute(s, &l.pattern)
}

// LostInSilence records that a request got no answer that was sent at that time, on a
// connection that had been idle, and was used by that limit: what it sent was not
// acknowledged. The path has lost the connection without a word. That caps the limit,
// but is no timeout to be learned. Below half of the limit one loss is more likely an
// outage, in which idle ages mean nothing, so it takes several. They leave open how much
// earlier the path forgets connections: half of the least is safe.
func (l *Learner) LostInSilence(now, sent time.Time, idle, limit time.Duration) {
	l.begin(now)
	defer l.end()
	if idle < limit/2 {
		var enough bool
		if idle, enough = l.losses.add(now, sent, idle); !enough {
			return
		}
		idle /= 2
	}
	keepAlive, _ := l.knowledge(now).keepAlive()
	l.closes.cap(early{at: now, idle: idle, bound: BoundSilence}, keepAlive)
}

// EndedAtOnce records that the upstream ended a connection within [AtOnce] of its
// first response, which had said nothing of that; met says that a second request met
// the end, and may have been the reason.
func (l *Learner) EndedAtOnce(now time.Time, met bool) {
	l.begin(now)
	defer l.end()
	l.ends.atOnce(now, met)
}

// Lasted records, once for each connection, that it did not end at once.
func (l *Learner) Lasted(now time.Time) {
	l.begin(now)
	defer l.end()
	l.ends.lasted(now)
}

// learned notes the event that there is a new learned value.
func (l *Learner) learned(now time.Time) {
	value, _ := l.closes.learned.Get()
	e := Event{KeepAlive: value, Outlived: l.closes.outlived}
	k := l.knowledge(now)
	promised, promise := k.promise()
	if _, source := k.keepAlive(); source == SourceLearned && promise.promised() {
		e.Broken, e.Source = promised, promise
	}
	l.events = append(l.events, e)
}

// Raced records that a request met a connection which was being closed, and
// got no response byte.
func (l *Learner) Raced(now time.Time) {
	l.begin(now)
	defer l.end()
	l.margins.raced(now)
}

// Announced records a timeout from a Keep-Alive field.
func (l *Learner) Announced(now time.Time, d time.Duration) {
	l.begin(now)
	defer l.end()
	l.announced.add(d)
}

// Connected records how long the TCP handshake took, a round trip.
func (l *Learner) Connected(now time.Time, d time.Duration) {
	l.begin(now)
	defer l.end()
	l.margins.connect.add(d)
}

// Responded records the time from the last byte of a request to the first of
// its response: a round trip and the work of the upstream. Through a proxy
// nearby it is the only sign of a long way.
func (l *Learner) Responded(now time.Time, d time.Duration) {
	l.begin(now)
	defer l.end()
	l.margins.responded(d)
}

// Limit returns the idle limit of a connection; own is what it announced itself.
func (l *Learner) Limit(now time.Time, own Optional) Limit {
	l.mu.Lock()
	defer l.end()
	if l.stands.until.After(now) && l.stands.own == own {
		return l.stands.limit
	}
	l.advance(now)
	k := l.knowledge(now)
	k.announced = own.or(k.announced)
	l.stands = standing{own, now.Add(limitStands), k.limit()}
	return l.stands.limit
}

// limitStands is for how long a limit stands if nothing is observed. Each request asks
// for it twice.
const limitStands = time.Millisecond

// standing is the limit of connections that announced own.
type standing struct {
	own   Optional
	until time.Time
	limit Limit
}

// UnusedLimit returns the idle limit of a connection that has carried no request.
func (l *Learner) UnusedLimit(now time.Time) Limit {
	l.begin(now)
	defer l.end()
	return l.knowledge(now).unusedLimit()
}

// StartSensor tells whether a connection that reached its limit is to be kept
// aside, to see when the upstream closes it. There is at most one; whoever gets
// true calls EndSensor.
func (l *Learner) StartSensor(now time.Time) bool {
	l.begin(now)
	defer l.end()
	if l.serial.known(now) || !l.sensor.want(now, l.knowledge(now).limit(), &l.closes, l.ends.sure()) {
		return false
	}
	l.sensor.out, l.sensor.startedAt = true, now
	return true
}

// EndSensor allows for the next sensor.
func (l *Learner) EndSensor() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sensor.out = false
}

// knowledge gathers what the limit depends on. It lies in the learner and not on
// the stack: limits are asked for on goroutines of which there are many.
func (l *Learner) knowledge(now time.Time) *knowledge {
	k := &l.known
	k.Config = l.config
	k.announced = l.announced.value()
	k.learned = l.closes.learned
	k.remembered = l.remembered
	k.early = l.closes.early
	k.atOnce = l.ends.useless()
	k.connect, _ = l.margins.connect.value().Get()
	k.response, _ = l.margins.response.value().Get()
	k.races = l.margins.raised
	k.seenOpen, k.noTimeout = 0, false
	if l.assumes() {
		k.seenOpen, k.noTimeout = l.evidence.age(now), l.pattern.excludesTimeouts()
	}
	return k
}

// assumes tells whether nobody knows K.
func (l *Learner) assumes() bool {
	return l.config.KeepAlive == 0 && l.closes.learned == (Optional{}) && l.remembered == (Optional{}) && l.announced.value() == (Optional{})
}
