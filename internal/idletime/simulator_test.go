package idletime

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A simServer is an upstream that closes connections. Each connection goes to a
// server with one of the timeouts.
type simServer struct {
	timeouts []time.Duration                      // 0: never
	life     func(*rand.Rand) time.Duration       // maximum age; nil: none
	restarts func(*rand.Rand) time.Duration       // time to the next restart; nil: none
	late     func(r *rand.Rand) (d time.Duration) // how late it closes; nil: in time
}

// A simTraffic is what clients send: bursts of requests.
type simTraffic struct {
	requests int
	gap      func(*rand.Rand) time.Duration
	burst    int     // at most so many requests at once
	posts    float64 // share of them that cannot be replayed
}

// A simConn is a connection of the simulated pool.
type simConn struct {
	opened, idleAt time.Time
	timeout, life  time.Duration
	late           time.Duration
	answered       time.Duration // the largest idle age after which it answered
	requests       int
	seen           time.Time // sensor: when it was last seen open
}

// A simulation is a pool that does what a Learner says, or keeps connections for
// two minutes as net/http does, towards a server a millisecond away.
type simulation struct {
	server  simServer
	traffic simTraffic
	rand    *rand.Rand
	learner *Learner // nil: as net/http

	now       time.Time
	idle      []*simConn // youngest last
	sensor    *simConn
	restartAt time.Time
	nextTick  time.Time

	conns, posts, failed, replayed int
	taught                         []Event
}

const (
	simOneWay  = time.Millisecond
	simService = 5 * time.Millisecond
	simTick    = 100 * time.Millisecond
)

func simulate(seed uint64, server simServer, traffic simTraffic, learn bool) *simulation {
	s := &simulation{server: server, traffic: traffic, rand: rand.New(rand.NewPCG(seed, 1)), now: newClock().now}
	if learn {
		s.learner = NewLearner(defaults, func(e Event) { s.taught = append(s.taught, e) })
	}
	s.nextTick = s.now
	s.planRestart()
	for sent := 0; sent < traffic.requests; {
		s.runUntil(s.now.Add(traffic.gap(s.rand)))
		n := 1 + s.rand.IntN(traffic.burst)
		var used []*simConn
		for range n {
			used = append(used, s.request(s.rand.Float64() < traffic.posts))
			s.now = s.now.Add(time.Millisecond)
		}
		for _, c := range used {
			if c != nil {
				s.idle = append(s.idle, c)
			}
		}
		sent += n
	}
	return s
}

func (s *simulation) planRestart() {
	if s.server.restarts != nil {
		s.restartAt = s.now.Add(s.server.restarts(s.rand))
	}
}

func (s *simulation) dial() *simConn {
	s.conns++
	c := &simConn{opened: s.now, timeout: s.server.timeouts[s.rand.IntN(len(s.server.timeouts))]}
	if s.server.life != nil {
		c.life = s.server.life(s.rand)
	}
	if s.learner != nil {
		s.learner.Connected(s.now, 2*simOneWay)
	}
	return c
}

// closes returns when the server closes c, which is idle.
func (s *simulation) closes(c *simConn) time.Time {
	end := c.idleAt.Add(24 * time.Hour)
	if c.timeout > 0 {
		end = c.idleAt.Add(c.timeout + c.late)
	}
	if c.life > 0 && c.opened.Add(c.life).Before(end) {
		end = c.opened.Add(c.life)
		if end.Before(c.idleAt) {
			end = c.idleAt
		}
	}
	if !s.restartAt.IsZero() && s.restartAt.Before(end) {
		end = s.restartAt
	}
	return end
}

// request sends a request and returns the connection that answered it, if any.
func (s *simulation) request(post bool) *simConn {
	if post {
		s.posts++
	}
	c, age, reused := s.take(post)
	if reused && !s.now.Add(simOneWay).Before(s.closes(c)) {
		s.raced(c, age, post)
		if post {
			s.failed++
			return nil
		}
		s.replayed++
		c = s.dial()
	} else if reused && s.learner != nil {
		s.learner.SawOpen(Sighting{At: s.now, Idle: age, Opened: c.opened, Proof: Answered})
		c.answered = max(c.answered, age)
	}
	c.requests++
	c.idleAt = s.now.Add(simService)
	if s.server.late != nil {
		c.late = s.server.late(s.rand)
	}
	if s.learner != nil {
		s.learner.Responded(s.now, simService+2*simOneWay)
		if c.requests == 2 {
			s.learner.Lasted(s.now)
		}
	}
	return c
}

// raced tells the learner that a request met the end of a connection.
func (s *simulation) raced(c *simConn, age time.Duration, post bool) {
	if s.learner == nil {
		return
	}
	if age >= s.learner.Limit(s.now, Optional{}).Value/2 {
		s.learner.Raced(s.now)
	}
	switch {
	case age < AtOnce && c.requests == 1:
		s.learner.EndedAtOnce(s.now, true)
	case !post:
		s.learner.SawClose(Close{At: s.now, Idle: age, Open: age, Opened: c.opened, Answered: c.answered})
	}
}

// take returns the youngest connection that is good enough, or a new one.
func (s *simulation) take(post bool) (c *simConn, age time.Duration, reused bool) {
	most := defaults.MaxIdle
	if s.learner != nil {
		limit := s.learner.Limit(s.now, Optional{})
		most = limit.Value
		if post {
			most = limit.Unreplayable
		}
	}
	for i, c := range slices.Backward(s.idle) {
		age := s.now.Sub(c.idleAt)
		if age >= 0 && age < most {
			s.idle = slices.Delete(s.idle, i, i+1)
			return c, age, true
		}
		if s.learner != nil && age >= 0 {
			s.learner.SawOpen(Sighting{At: s.now, Idle: age, Opened: c.opened, Proof: LivePath})
		}
	}
	return s.dial(), 0, false
}

// runUntil lets connections be closed, reach their limits, and be looked at.
func (s *simulation) runUntil(end time.Time) {
	for {
		at, c := end, (*simConn)(nil)
		for _, x := range append(slices.Clone(s.idle), s.sensor) {
			if x != nil && s.closes(x).Add(simOneWay).Before(at) {
				at, c = s.closes(x).Add(simOneWay), x
			}
		}
		if s.nextTick.Before(at) {
			s.now, s.nextTick = s.nextTick, s.nextTick.Add(simTick)
			s.tick()
			continue
		}
		s.now = at
		if c == nil {
			return
		}
		s.sawClose(c)
		if !s.restartAt.IsZero() && !s.now.Before(s.restartAt.Add(simOneWay)) && len(s.idle) == 0 && s.sensor == nil {
			s.planRestart()
		}
	}
}

func (s *simulation) sawClose(c *simConn) {
	age := s.now.Sub(c.idleAt)
	open := age
	if c == s.sensor {
		open = c.seen.Sub(c.idleAt)
	}
	if s.learner != nil {
		s.learner.SawClose(Close{At: s.now, Idle: age, Open: open, Opened: c.opened, Answered: c.answered})
		switch {
		case age < AtOnce && c.requests == 1:
			s.learner.EndedAtOnce(s.now, false)
		case c.requests == 1:
			s.learner.Lasted(s.now)
		}
	}
	if c == s.sensor {
		s.sensor = nil
		s.learner.EndSensor()
	}
	s.idle = slices.DeleteFunc(s.idle, func(x *simConn) bool { return x == c })
}

func (s *simulation) tick() {
	if !s.restartAt.IsZero() && s.now.After(s.restartAt.Add(simTick)) {
		s.planRestart()
	}
	most := defaults.MaxIdle
	if s.learner != nil {
		most = s.learner.Limit(s.now, Optional{}).Value
	}
	for _, c := range slices.Clone(s.idle) {
		age := s.now.Sub(c.idleAt)
		if age < most || age < 0 {
			continue
		}
		s.idle = slices.DeleteFunc(s.idle, func(x *simConn) bool { return x == c })
		if s.learner == nil {
			continue
		}
		s.learner.SawOpen(Sighting{At: s.now, Idle: age, Opened: c.opened, Proof: LivePath})
		if s.sensor == nil && s.learner.StartSensor(s.now) {
			c.seen, s.sensor = s.now, c
		}
	}
	if c := s.sensor; c != nil {
		age := s.now.Sub(c.idleAt)
		if s.now.Sub(c.seen) < max(250*time.Millisecond, age/20) {
			return
		}
		c.seen = s.now
		sighting := Sighting{At: s.now, Idle: age, Opened: c.opened, Proof: LivePath}
		if s.learner.SensorSawOpen(sighting) {
			s.learner.EndSensor()
			s.sensor = nil
		}
	}
}

// falselyTaught returns the learned values that are no timeout of the server.
func (s *simulation) falselyTaught() (values []time.Duration) {
	for _, e := range s.taught {
		if !e.Outlived && !slices.ContainsFunc(s.server.timeouts, func(d time.Duration) bool { return SameAge(d, e.KeepAlive) }) {
			values = append(values, e.KeepAlive)
		}
	}
	return values
}

func (s *simulation) limit() Limit { return s.learner.Limit(s.now, Optional{}) }

func exponential(mean time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
}

func uniform(from, to time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return from + time.Duration(r.Int64N(int64(to-from))) }
}

func every(d time.Duration) func(*rand.Rand) time.Duration {
	return func(*rand.Rand) time.Duration { return d }
}
