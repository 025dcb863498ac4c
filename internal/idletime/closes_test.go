package idletime

import (
	"testing"
	"time"
)

func TestLearnerConfirms(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name   string
		ages   []time.Duration // a minute apart
		want   time.Duration   // keep-alive
		source Source
	}{
		{"one close is no timeout", []time.Duration{2 * s}, safeKeepAlive, SourceAssumed},
		{"two of one age are", []time.Duration{2 * s, 2010 * ms}, 2 * s, SourceLearned},
		{"unless it is none: a connection at its request limit", []time.Duration{0, 10 * ms, 49 * ms, 0, 5 * ms}, safeKeepAlive, SourceAssumed},
		{"the earlier one counts", []time.Duration{2 * s, 1900 * ms}, 1900 * ms, SourceLearned},
		{"300 ms apart agree", []time.Duration{s, 1300 * ms}, s, SourceLearned},
		{"301 ms apart do not", []time.Duration{s, 1301 * ms}, safeKeepAlive, SourceAssumed},
		{"of short ones a quarter apart, or all would", []time.Duration{60 * ms, 180 * ms, 320 * ms}, safeKeepAlive, SourceAssumed},
		{"and no more", []time.Duration{400 * ms, 300 * ms}, 300 * ms, SourceLearned},
		{"three that forbid reuse are too few", []time.Duration{150 * ms, 150 * ms, 150 * ms}, safeKeepAlive, SourceAssumed},
		{"four are not", []time.Duration{150 * ms, 150 * ms, 150 * ms, 150 * ms}, 150 * ms, SourceLearned},
		{"10 % apart agree", []time.Duration{75 * s, 70 * s}, 70 * s, SourceLearned},
		{"a stray close in between", []time.Duration{2 * s, 700 * ms, 2 * s}, 2 * s, SourceLearned},
		{"four strays in between are too many", []time.Duration{2 * s, 400 * ms, 800 * ms, 1200 * ms, 3 * s, 2 * s}, safeKeepAlive, SourceAssumed},
		{"it follows down, after one more", []time.Duration{60 * s, 60 * s, 5 * s, 5 * s, 5 * s}, 5 * s, SourceLearned},
		{"two restarts that met connections of one age do not move it", []time.Duration{60 * s, 60 * s, 5 * s, 5 * s, 60 * s, 5 * s}, 60 * s, SourceLearned},
		{"one close does not move it", []time.Duration{60 * s, 60 * s, 5 * s}, 60 * s, SourceLearned},
		{"and it follows up", []time.Duration{5 * s, 5 * s, 60 * s, 60 * s}, 60 * s, SourceLearned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for _, age := range tc.ages {
				c.sawClose(l, age)
				c.add(time.Minute)
			}
			got := l.Limit(c.now, Optional{})
			if got.KeepAlive != tc.want || got.Source != tc.source {
				t.Errorf("= %v (%s), want %v (%s)", got.KeepAlive, got.Source, tc.want, tc.source)
			}
		})
	}
}

// A process that is short of time sees the close of a sensor late. Two late ones
// agree by chance; one that was seen in time must still count.
func TestLearnerLateCloses(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name   string
		closes [][2]time.Duration // age, and the age when last seen open
		want   time.Duration
	}{
		{"both late, after one in time", [][2]time.Duration{{2 * s, 2 * s}, {2600 * ms, 1900 * ms}, {2750 * ms, 1950 * ms}}, 2 * s},
		{"one in time between them", [][2]time.Duration{{2600 * ms, 1900 * ms}, {2 * s, 1900 * ms}, {2750 * ms, 1950 * ms}}, 2 * s},
		{"the early one was a restart: the others were open for longer", [][2]time.Duration{{2 * s, 2 * s}, {2600 * ms, 2500 * ms}, {2750 * ms, 2500 * ms}}, 2600 * ms},
		{"one open for longer will do", [][2]time.Duration{{2 * s, 2 * s}, {2600 * ms, 1900 * ms}, {2750 * ms, 2500 * ms}}, 2600 * ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for _, close := range tc.closes {
				l.SawClose(Close{At: c.now, Idle: close[0], Open: close[1]})
				c.add(time.Minute)
			}
			if got := l.Limit(c.now, Optional{}); got.KeepAlive != tc.want || got.Source != SourceLearned {
				t.Errorf("= %v (%s), want %v", got.KeepAlive, got.Source, tc.want)
			}
		})
	}
}

func TestLearnerCapsAtOnce(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	c.sawClose(l, 2*time.Second)
	if got := l.value(c); got != 1900*time.Millisecond {
		t.Errorf("limit after one early close = %v, want 1.9s", got)
	}
	c.add(lately - time.Millisecond)
	if got := l.value(c); got != 1900*time.Millisecond {
		t.Errorf("limit before the cap ends = %v, want 1.9s", got)
	}
	c.add(time.Millisecond)
	if got := l.value(c); got != 3800*time.Millisecond {
		t.Errorf("limit after the cap ended = %v, want 3.8s", got)
	}
}

// A connection that was idle for longer before, and answered, is not closed by an idle
// timeout.
func TestCloseOfAConnectionThatOutlivedIt(t *testing.T) {
	for _, tc := range []struct {
		name     string
		answered time.Duration
		limit    time.Duration // after two closes at 2 s
	}{
		{"never idle before", 0, 1900 * time.Millisecond},
		{"idle for less", time.Second, 1900 * time.Millisecond},
		{"idle for as long", 2 * time.Second, 1900 * time.Millisecond},
		{"idle for longer", 2001 * time.Millisecond, 3800 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for range 2 {
				c.add(time.Minute)
				l.SawClose(Close{At: c.now, Idle: 2 * time.Second, Open: 2 * time.Second, Answered: tc.answered})
				c.add(restartWindow)
				l.Limit(c.now, Optional{})
			}
			if got := l.value(c); got != tc.limit {
				t.Errorf("limit = %v, want %v", got, tc.limit)
			}
		})
	}
}

func TestLearnerNoCapFromALateClose(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	c.sawClose(l, 30*time.Second) // a sensor's
	if got := l.Limit(c.now, Optional{}); got.Bound != BoundKeepAlive {
		t.Errorf("limit = %v, want no cap", got)
	}
}

func TestLearnerRestart(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	c.sawClose(l, time.Second) // a first restart
	c.add(300 * time.Millisecond)
	c.sawClose(l, 3*time.Second)
	if got := l.value(c); got != 3800*time.Millisecond {
		t.Errorf("limit right after a restart = %v, want it unchanged", got)
	}
	c.add(time.Minute)
	c.sawClose(l, time.Second) // a second one, with an age of the first
	c.add(300 * time.Millisecond)
	c.sawClose(l, 2*time.Second)
	c.add(600 * time.Millisecond)
	c.sawClose(l, time.Second)
	c.add(time.Minute)
	if got := l.Limit(c.now, Optional{}); got.Source != SourceAssumed || got.Bound != BoundKeepAlive {
		t.Errorf("limit after two restarts = %v, want nothing learned", got)
	}

	t.Run("does not take back an earlier cap", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		c.sawClose(l, 3*time.Second)
		c.add(time.Minute)
		c.sawClose(l, time.Second)
		c.sawClose(l, 2*time.Second)
		if got := l.value(c); got != 2850*time.Millisecond {
			t.Errorf("limit = %v, want 2.85s", got)
		}
	})
	t.Run("of a busy upstream, whose connections are all idle for a short time", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 3 {
			for age := 60 * time.Millisecond; age < 300*time.Millisecond; age += 20 * time.Millisecond {
				c.sawClose(l, age)
				c.add(time.Millisecond)
			}
			c.add(5 * time.Minute)
		}
		if got := l.Limit(c.now, Optional{}); got.Source != SourceAssumed || got.Bound != BoundKeepAlive {
			t.Errorf("limit = %v, want nothing learned", got)
		}
	})
	t.Run("after the value is known", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			c.sawClose(l, 60*time.Second)
			c.add(time.Minute)
		}
		for range 3 { // always the same ages, one of them the timeout
			c.sawClose(l, 5*time.Second)
			c.sawClose(l, 58*time.Second)
			c.add(time.Minute)
		}
		if got := l.Limit(c.now, Optional{}); got.KeepAlive != time.Minute || got.Bound != BoundKeepAlive {
			t.Errorf("limit = %v, want 60 s learned", got)
		}
	})
}

// A restart that meets one idle connection looks like a timeout of that age. It
// is none if connections outlive that age between restarts.
func TestLearnerRestartsWithOneConnection(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name     string
		known    time.Duration   // learned before; 0: nothing
		restarts []time.Duration // ages of the connection
		survives time.Duration   // an age reached between the restarts
		want     time.Duration
		source   Source
	}{
		{"nothing outlives that age", 0, []time.Duration{2 * s, 2 * s}, 2 * s, 2 * s, SourceLearned},
		{"within the tolerance", 0, []time.Duration{2 * s, 2 * s}, 2300 * ms, 2 * s, SourceLearned},
		{"beyond the tolerance", 0, []time.Duration{2 * s, 2 * s, 2 * s}, 2301 * ms, safeKeepAlive, SourceAssumed},
		{"a request every 200 ms", 0, []time.Duration{100 * ms, 150 * ms, 190 * ms}, 200 * ms, safeKeepAlive, SourceAssumed},
		{"a value that is known", 60 * s, []time.Duration{20 * s, 20 * s}, 40 * s, 60 * s, SourceLearned},
		{"one age that could be the timeout", 60 * s, []time.Duration{55 * s}, 0, 60 * s, SourceLearned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for range 2 {
				if tc.known > 0 {
					c.sawClose(l, tc.known)
					c.add(2 * time.Minute)
				}
			}
			for _, age := range tc.restarts {
				c.sawClose(l, age)
				c.add(2 * time.Minute)
				l.SawOpen(Sighting{At: c.now, Idle: tc.survives, Proof: LivePath})
			}
			got := l.Limit(c.now, Optional{})
			if got.KeepAlive != tc.want || got.Source != tc.source {
				t.Errorf("= %v (%s), want %v (%s)", got.KeepAlive, got.Source, tc.want, tc.source)
			}
		})
	}
	t.Run("a connection idle since before the close shows nothing", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			c.sawClose(l, s)
			c.add(5 * s)
			l.SawOpen(Sighting{At: c.now, Idle: 6 * s, Proof: LivePath})
		}
		if got := l.Limit(c.now, Optional{}); got.Source != SourceLearned {
			t.Errorf("limit = %v, want 1 s learned", got)
		}
	})
	t.Run("within the second before a close is judged", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			c.sawClose(l, 100*ms)
			c.add(200 * ms)
			l.SawOpen(Sighting{At: c.now, Idle: 200 * ms, Proof: LivePath})
			c.add(time.Minute)
		}
		if got := l.Limit(c.now, Optional{}); got.Source != SourceAssumed {
			t.Errorf("limit = %v, want nothing learned", got)
		}
	})
	t.Run("ages that creep down from the timeout", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{60 * s, 60 * s, 55 * s, 60 * s, 50 * s, 60 * s, 45 * s, 60 * s} {
			c.sawClose(l, age)
			c.add(2 * time.Minute)
		}
		if got := l.Limit(c.now, Optional{}); got.KeepAlive != 60*s {
			t.Errorf("limit = %v, want 60 s learned", got)
		}
	})
	t.Run("a later close counts as well", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{2 * s, 5 * s, 2 * s} {
			c.sawClose(l, age)
			c.add(time.Minute)
		}
		if got := l.Limit(c.now, Optional{}); got.Source != SourceAssumed {
			t.Errorf("limit = %v, want nothing learned", got)
		}
	})
}

func TestLearnerSameTimeIsNoConfirmation(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for range 5 {
		c.sawClose(l, 2*time.Second)
		c.add(100 * time.Millisecond)
	}
	c.add(time.Second)
	if got := l.Limit(c.now, Optional{}); got.Source != SourceAssumed || got.Bound != BoundEarlyClose {
		t.Errorf("limit = %v, want an unconfirmed close", got)
	}
}

// An address may stand for servers with different timeouts: the shortest counts,
// and a value that was confirmed is raised only when five connections outlived it.
func TestMixedServersKeepTheShortestTimeout(t *testing.T) {
	const s = time.Second
	outlived := func(c *clock, l *Learner) {
		l.SensorSawOpen(Sighting{At: c.now, Idle: 2 * time.Minute, Proof: LivePath})
	}
	for _, tc := range []struct {
		name string
		then []time.Duration // ages of closes, a minute apart; 0: a sensor outlived all
		want time.Duration
	}{
		{"a sensor at the other server", []time.Duration{0}, 2 * s},
		{"four of them", []time.Duration{0, 0, 0, 0}, 2 * s},
		{"five, so the first is gone", []time.Duration{0, 0, 0, 0, 0}, 2 * time.Minute},
		{"a close in between", []time.Duration{0, 0, 0, 0, 2 * s, 0, 0, 0, 0}, 2 * s},
		{"closes of a longer timeout", []time.Duration{60 * s, 60 * s, 60 * s, 60 * s}, 2 * s},
		{"five of them", []time.Duration{60 * s, 60 * s, 60 * s, 60 * s, 60 * s}, 60 * s},
		{"an earlier close in between", []time.Duration{60 * s, 60 * s, 60 * s, 60 * s, s, 60 * s, 60 * s}, 2 * s},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for _, age := range append([]time.Duration{2 * s, 2 * s, 2 * s}, tc.then...) {
				if age == 0 {
					outlived(c, l)
				} else {
					c.sawClose(l, age)
				}
				c.add(time.Minute)
			}
			if got := l.Limit(c.now, Optional{}); got.KeepAlive != tc.want {
				t.Errorf("limit = %v, want %v learned", got, tc.want)
			}
		})
	}
	t.Run("a cap outlives what is learned above it", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{s, 5 * s, 5 * s} {
			c.sawClose(l, age)
			c.add(2 * s)
		}
		if got := l.Limit(c.now, Optional{}); got.KeepAlive != 5*s || got.Value != 900*time.Millisecond {
			t.Errorf("limit = %v, want 5 s learned, capped by the close after 1 s", got)
		}
	})
}
