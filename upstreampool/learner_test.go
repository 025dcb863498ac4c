package upstreampool

import (
	"testing"
	"time"
)

// clock is a hand-driven clock for the learner, which is told the time.
type clock struct{ now time.Time }

func newClock() *clock                   { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }
func (c *clock) add(d time.Duration)     { c.now = c.now.Add(d) }
func newLearner(base knowledge) *learner { return &learner{base: base} }

var defaults = knowledge{MaxIdle: 2 * time.Minute}

func (l *learner) value(c *clock) time.Duration { return l.limit(c.now, 0, false).Value }

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
		{"and no more", []time.Duration{200 * ms, 150 * ms}, 150 * ms, SourceLearned},
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
				l.sawClose(c.now, age, age)
				c.add(time.Minute)
			}
			got := l.limit(c.now, 0, false)
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
				l.sawClose(c.now, close[0], close[1])
				c.add(time.Minute)
			}
			if got := l.limit(c.now, 0, false); got.KeepAlive != tc.want || got.Source != SourceLearned {
				t.Errorf("= %v (%s), want %v", got.KeepAlive, got.Source, tc.want)
			}
		})
	}
}

func TestLearnerCapsAtOnce(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	l.sawClose(c.now, 2*time.Second, 2*time.Second)
	if got := l.value(c); got != 1800*time.Millisecond {
		t.Errorf("limit after one early close = %v, want 1.8s", got)
	}
	c.add(memory - time.Millisecond)
	if got := l.value(c); got != 1800*time.Millisecond {
		t.Errorf("limit before the cap ends = %v, want 1.8s", got)
	}
	c.add(time.Millisecond)
	if got := l.value(c); got != 3800*time.Millisecond {
		t.Errorf("limit after the cap ended = %v, want 3.8s", got)
	}
}

func TestLearnerNoCapFromALateClose(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	l.sawClose(c.now, 30*time.Second, 30*time.Second) // a sensor's
	if got := l.limit(c.now, 0, false); got.bound != boundKeepAlive {
		t.Errorf("limit = %v, want no cap", got)
	}
}

func TestLearnerRestart(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	l.sawClose(c.now, time.Second, time.Second) // a first restart
	c.add(300 * time.Millisecond)
	l.sawClose(c.now, 3*time.Second, 3*time.Second)
	if got := l.value(c); got != 3800*time.Millisecond {
		t.Errorf("limit right after a restart = %v, want it unchanged", got)
	}
	c.add(time.Minute)
	l.sawClose(c.now, time.Second, time.Second) // a second one, with an age of the first
	c.add(300 * time.Millisecond)
	l.sawClose(c.now, 2*time.Second, 2*time.Second)
	c.add(600 * time.Millisecond)
	l.sawClose(c.now, time.Second, time.Second)
	c.add(time.Minute)
	if got := l.limit(c.now, 0, false); got.Source != SourceAssumed || got.bound != boundKeepAlive {
		t.Errorf("limit after two restarts = %v, want nothing learned", got)
	}

	t.Run("does not take back an earlier cap", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.sawClose(c.now, 3*time.Second, 3*time.Second)
		c.add(time.Minute)
		l.sawClose(c.now, time.Second, time.Second)
		l.sawClose(c.now, 2*time.Second, 2*time.Second)
		if got := l.value(c); got != 2800*time.Millisecond {
			t.Errorf("limit = %v, want 2.8s", got)
		}
	})
	t.Run("of a busy upstream, whose connections are all idle for a short time", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 3 {
			for age := 60 * time.Millisecond; age < 300*time.Millisecond; age += 20 * time.Millisecond {
				l.sawClose(c.now, age, age)
				c.add(time.Millisecond)
			}
			c.add(5 * time.Minute)
		}
		if got := l.limit(c.now, 0, false); got.Source != SourceAssumed || got.bound != boundKeepAlive {
			t.Errorf("limit = %v, want nothing learned", got)
		}
	})
	t.Run("after the value is known", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			l.sawClose(c.now, 60*time.Second, 60*time.Second)
			c.add(time.Minute)
		}
		for range 3 { // always the same ages, one of them the timeout
			l.sawClose(c.now, 5*time.Second, 5*time.Second)
			l.sawClose(c.now, 58*time.Second, 58*time.Second)
			c.add(time.Minute)
		}
		if got := l.limit(c.now, 0, false); got.KeepAlive != time.Minute || got.bound != boundKeepAlive {
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
					l.sawClose(c.now, tc.known, tc.known)
					c.add(2 * time.Minute)
				}
			}
			for _, age := range tc.restarts {
				l.sawClose(c.now, age, age)
				c.add(2 * time.Minute)
				l.survived(c.now, tc.survives)
			}
			got := l.limit(c.now, 0, false)
			if got.KeepAlive != tc.want || got.Source != tc.source {
				t.Errorf("= %v (%s), want %v (%s)", got.KeepAlive, got.Source, tc.want, tc.source)
			}
		})
	}
	t.Run("a connection idle since before the close shows nothing", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			l.sawClose(c.now, s, s)
			c.add(5 * s)
			l.survived(c.now, 6*s)
		}
		if got := l.limit(c.now, 0, false); got.Source != SourceLearned {
			t.Errorf("limit = %v, want 1 s learned", got)
		}
	})
	t.Run("within the second before a close is judged", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			l.sawClose(c.now, 100*ms, 100*ms)
			c.add(200 * ms)
			l.survived(c.now, 200*ms)
			c.add(time.Minute)
		}
		if got := l.limit(c.now, 0, false); got.Source != SourceAssumed {
			t.Errorf("limit = %v, want nothing learned", got)
		}
	})
	t.Run("ages that creep down from the timeout", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{60 * s, 60 * s, 55 * s, 60 * s, 50 * s, 60 * s, 45 * s, 60 * s} {
			l.sawClose(c.now, age, age)
			c.add(2 * time.Minute)
		}
		if got := l.limit(c.now, 0, false); got.KeepAlive != 55*s {
			t.Errorf("limit = %v, want 55 s learned", got)
		}
	})
	t.Run("a later close counts as well", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{2 * s, 5 * s, 2 * s} {
			l.sawClose(c.now, age, age)
			c.add(time.Minute)
		}
		if got := l.limit(c.now, 0, false); got.Source != SourceAssumed {
			t.Errorf("limit = %v, want nothing learned", got)
		}
	})
}

func TestLearnerSameTimeIsNoConfirmation(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for range 5 {
		l.sawClose(c.now, 2*time.Second, 2*time.Second)
		c.add(100 * time.Millisecond)
	}
	c.add(time.Second)
	if got := l.limit(c.now, 0, false); got.Source != SourceAssumed || got.bound != boundEarlyClose {
		t.Errorf("limit = %v, want an unconfirmed close", got)
	}
}

// sense lets a sensor see that the upstream closes it at this age, and time pass
// until that is judged.
func sense(t *testing.T, c *clock, l *learner, age time.Duration) {
	t.Helper()
	if !l.startSensor(c.now) {
		t.Fatalf("no sensor, with %v", l.limit(c.now, 0, false))
	}
	c.add(age)
	l.sawClose(c.now, age, age)
	l.endSensor()
	c.add(restartWindow)
}

func TestLearnerSensor(t *testing.T) {
	second := time.Second
	t.Run("at most one", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		if !l.startSensor(c.now) || l.startSensor(c.now) {
			t.Fatal("want one sensor, not two")
		}
		l.endSensor()
		if !l.startSensor(c.now) {
			t.Error("want the next one after the first ended")
		}
	})
	t.Run("raises the limit after two closes", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		sense(t, c, l, 75*second)
		sense(t, c, l, 75*second)
		if got := l.value(c); got != 71250*time.Millisecond {
			t.Errorf("limit = %v, want 71.25s", got)
		}
		sense(t, c, l, 75*second) // confirms the value
		if l.startSensor(c.now) {
			t.Error("a sensor although the value is confirmed")
		}
		c.add(memory)
		if !l.startSensor(c.now) {
			t.Error("no sensor after ten minutes")
		}
	})
	t.Run("corrects two restarts that met connections of one age", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{2 * second, 2 * second, 75 * second, 75 * second} {
			sense(t, c, l, age)
		}
		if got := l.limit(c.now, 0, false).KeepAlive; got != 75*second {
			t.Errorf("keep-alive value = %v, want 75s", got)
		}
	})
	t.Run("outliving max_idle_time", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.startSensor(c.now)
		c.add(2 * time.Minute)
		l.outlived(c.now)
		l.endSensor()
		if got := l.limit(c.now, 0, false); got.KeepAlive != 2*time.Minute || got.Source != SourceLearned {
			t.Errorf("limit = %v, want at least 2 m learned", got)
		}
		if l.startSensor(c.now) {
			t.Error("a sensor although one has just outlived max_idle_time")
		}
	})
	t.Run("outliving max_idle_time breaks no promise", func(t *testing.T) {
		for _, promised := range []time.Duration{65 * second, 30 * second} {
			c, l := newClock(), newLearner(knowledge{MaxIdle: time.Minute})
			l.report = func(e learnEvent) {
				if e.broken > 0 {
					t.Errorf("promised %v: event %+v, but nothing was closed early", promised, e)
				}
			}
			l.announce(c.now, promised)
			want := l.limit(c.now, 0, false)
			l.sawClose(c.now, 10*second, 10*second) // a restart
			c.add(2 * second)
			if !l.startSensor(c.now) {
				t.Fatal("no sensor after an early close")
			}
			c.add(time.Minute)
			l.announce(c.now, promised)
			l.outlived(c.now)
			l.endSensor()
			if got := l.limit(c.now, 0, false); got != want {
				t.Errorf("promised %v: limit = %v, want %v as before", promised, got, want)
			}
		}
	})
	t.Run("none while the value is announced", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.announce(c.now, 5*second)
		if l.startSensor(c.now) {
			t.Error("a sensor")
		}
	})
	t.Run("one to look into an early close", func(t *testing.T) {
		c, l := newClock(), newLearner(knowledge{MaxIdle: 2 * time.Minute, Configured: 60 * second})
		if l.startSensor(c.now) {
			t.Error("a sensor although the value is configured")
		}
		l.sawClose(c.now, 5*second, 5*second)
		if !l.startSensor(c.now) {
			t.Error("no sensor after an early close")
		}
	})
	t.Run("every ten minutes while nothing is reused", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range 2 {
			l.sawClose(c.now, 100*time.Millisecond, 100*time.Millisecond)
			c.add(time.Minute)
		}
		if got := l.limit(c.now, 0, false); got.Value != 0 {
			t.Fatalf("limit = %v, want no reuse", got)
		}
		if !l.startSensor(c.now) {
			t.Fatal("no first sensor")
		}
		l.endSensor()
		c.add(memory - 1)
		if l.startSensor(c.now) {
			t.Error("a sensor too early")
		}
		c.add(1)
		if !l.startSensor(c.now) {
			t.Error("no sensor after ten minutes")
		}
	})
}

func TestLearnerRaces(t *testing.T) {
	c, l := newClock(), newLearner(knowledge{MaxIdle: 2 * time.Minute, Configured: 10 * time.Second})
	margin := func() time.Duration { return l.limit(c.now, 0, false).Margin }
	if margin() != 500*time.Millisecond {
		t.Fatalf("margin = %v", margin())
	}
	l.raced(c.now)
	l.raced(c.now.Add(raceInterval - 1))
	if margin() != time.Second {
		t.Errorf("margin after races within 10 s = %v, want 1s", margin())
	}
	c.add(raceInterval)
	l.raced(c.now)
	if margin() != 2*time.Second {
		t.Errorf("margin after the next race = %v, want 2s", margin())
	}
	for range 20 {
		c.add(raceInterval)
		l.raced(c.now)
	}
	if margin() != 5*time.Second {
		t.Errorf("margin after many races = %v, want K/2", margin())
	}
	c.add(1000 * time.Minute)
	if margin() != 500*time.Millisecond {
		t.Errorf("margin after a long time = %v, want 500ms", margin())
	}
	l.raced(c.now)
	c.add(memory)
	if margin() != 900*time.Millisecond {
		t.Errorf("margin ten minutes after a race = %v, want 900ms", margin())
	}
}

func TestLearnerAnnounced(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	l.announce(c.now, 5*time.Second)
	l.announce(c.now, 3*time.Second)
	l.announce(c.now, 9*time.Second)
	if got := l.limit(c.now, 0, false).KeepAlive; got != 3*time.Second {
		t.Errorf("upstream's value = %v, want the smallest", got)
	}
	if got := l.limit(c.now, 9*time.Second, true).KeepAlive; got != 9*time.Second {
		t.Errorf("connection's value = %v, want its own", got)
	}
	c.add(memory)
	l.announce(c.now, 9*time.Second)
	if got := l.limit(c.now, 0, false).KeepAlive; got != 3*time.Second {
		t.Errorf("after 10 minutes = %v, want 3s still", got)
	}
	c.add(memory)
	if got := l.limit(c.now, 0, false).KeepAlive; got != 9*time.Second {
		t.Errorf("after 20 minutes = %v, want 9s", got)
	}
	c.add(2 * memory)
	if got := l.limit(c.now, 0, false).Source; got != SourceAssumed {
		t.Errorf("long after = %v, want it forgotten", got)
	}
}

func TestLearnerRoundTrip(t *testing.T) {
	c, l := newClock(), newLearner(knowledge{MaxIdle: 2 * time.Minute, Configured: 2 * time.Second})
	l.connected(c.now, 40*time.Millisecond)
	l.responded(c.now, 90*time.Millisecond)
	l.responded(c.now, 50*time.Millisecond)
	l.connected(c.now, time.Second) // a lost SYN
	if got := l.limit(c.now, 0, false).Margin; got != 200*time.Millisecond {
		t.Errorf("margin = %v, want 2 x 50 ms + 100 ms", got)
	}
}

func TestLearnerReports(t *testing.T) {
	var got []learnEvent
	c, l := newClock(), newLearner(knowledge{MaxIdle: 2 * time.Minute, Configured: time.Minute})
	l.report = func(e learnEvent) { got = append(got, e) }
	for range 4 {
		l.sawClose(c.now, 5*time.Second, 5*time.Second)
		c.add(time.Minute)
	}
	l.value(c)
	want := learnEvent{keepAlive: 5 * time.Second, broken: time.Minute, source: SourceConfigured}
	if len(got) != 1 || got[0] != want {
		t.Errorf("events = %+v, want once %+v", got, want)
	}
}
