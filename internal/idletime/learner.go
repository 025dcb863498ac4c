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

	refutable atomic.Bool // there may be closes to refute

	mu        sync.Mutex
	closes    closes
	margins   margins
	announced leastOf
	sensor    sensorGate
	observed  int     // closes
	events    []Event // to be reported once mu is free
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
	return &Learner{config: config, report: report}
}

// Config returns what the configuration says.
func (l *Learner) Config() Config { return l.config }

// begin locks the learner and lets time take effect. It is the only place where
// it does.
func (l *Learner) begin(now time.Time) {
	l.mu.Lock()
	l.margins.advance(now)
	l.announced.advance(now)
	if l.closes.advance(now) {
		l.learned(false)
	}
}

// end unlocks the learner and reports what happened meanwhile.
func (l *Learner) end() {
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
	l.refutable.Store(true)
	l.observed++
	keepAlive, _ := l.knowledge().keepAlive()
	l.closes.observe(c, keepAlive)
}

// Observed returns how many closes were recorded that say something about the
// upstream's timeout.
func (l *Learner) Observed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.observed
}

// SawOpen records that a connection was seen open after it had been idle for age.
func (l *Learner) SawOpen(now time.Time, age time.Duration) {
	if !l.refutable.Load() {
		return
	}
	l.begin(now)
	defer l.end()
	l.closes.refute(now, age)
	l.refutable.Store(l.closes.undecided())
}

// SensorOutlived records that a sensor reached the ceiling without being closed:
// the upstream's timeout is at least that. A promise of more stands, or stands
// again.
func (l *Learner) SensorOutlived(now time.Time) {
	l.begin(now)
	defer l.end()
	ceiling := l.config.Ceiling()
	if promised, source := l.promise(); source != SourceAssumed && promised >= ceiling {
		l.closes.forget()
		return
	}
	if l.closes.outlived(now, ceiling) {
		l.learned(true)
	}
}

// learned notes the event that there is a new learned value.
func (l *Learner) learned(outlived bool) {
	value, _ := l.closes.learned.Get()
	e := Event{KeepAlive: value, Outlived: outlived}
	promised, promise := l.promise()
	if _, source := l.knowledge().keepAlive(); source == SourceLearned && promise != SourceAssumed {
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
	l.margins.response.add(d)
}

// Limit returns the idle limit of a connection; own is what it announced itself.
func (l *Learner) Limit(now time.Time, own Optional) Limit {
	l.begin(now)
	defer l.end()
	k := l.knowledge()
	k.announced = own.or(k.announced)
	return k.limit()
}

// UnusedLimit returns the idle limit of a connection that has carried no request.
func (l *Learner) UnusedLimit(now time.Time) Limit {
	l.begin(now)
	defer l.end()
	return l.knowledge().unusedLimit()
}

// StartSensor tells whether a connection that reached its limit is to be kept
// aside, to see when the upstream closes it. There is at most one; whoever gets
// true calls EndSensor.
func (l *Learner) StartSensor(now time.Time) bool {
	l.begin(now)
	defer l.end()
	if !l.sensor.want(now, l.knowledge().limit(), &l.closes) {
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

// knowledge gathers what the limit depends on.
func (l *Learner) knowledge() knowledge {
	k := knowledge{
		Config:    l.config,
		announced: l.announced.value(),
		learned:   l.closes.learned,
		races:     l.margins.raised,
	}
	k.connect, _ = l.margins.connect.value().Get()
	k.response, _ = l.margins.response.value().Get()
	if l.closes.early.Idle > 0 {
		k.earlyClose = Known(l.closes.early.Idle)
	}
	return k
}

// promise returns what K would be if nothing had been learned.
func (l *Learner) promise() (time.Duration, Source) {
	return l.knowledge().promise()
}
