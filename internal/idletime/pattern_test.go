package idletime

import (
	"testing"
	"time"
)

// Closes by the age since a connection was opened, or at random, cap nothing and
// teach nothing once that is shown.
func TestPatternOfCloses(t *testing.T) {
	const s = time.Second
	type close struct{ idle, life time.Duration } // life 0: unknown
	for _, tc := range []struct {
		name   string
		closes []close // a minute apart
		shown  bool
	}{
		{"none", nil, false},
		{"two of one life", []close{{s, 30 * s}, {3 * s, 30 * s}}, false},
		{"three of one life", []close{{s, 30 * s}, {3 * s, 30 * s}, {2 * s, 30 * s}}, true},
		{"within 10 % either way", []close{{s, 27 * s}, {3 * s, 33 * s}, {2 * s, 30 * s}}, true},
		{"idle ages that hardly differ", []close{{2 * s, 30 * s}, {3 * s, 30 * s}, {2 * s, 30 * s}}, false},
		{"lives that differ", []close{{s, 30 * s}, {3 * s, 50 * s}, {2 * s, 80 * s}}, false},
		{"lives that are unknown", []close{{s, 0}, {3 * s, 0}, {2 * s, 0}}, false},
		{"one stray close among them", []close{{s, 30 * s}, {3 * s, 30 * s}, {2 * s, 300 * s}, {2 * s, 30 * s}}, true},
		{"an idle timeout on connections used once", []close{{5 * s, 5 * s}, {5 * s, 5 * s}, {5 * s, 5 * s}}, false},
		{"an idle timeout", []close{{5 * s, 50 * s}, {5 * s, 7 * s}, {5 * s, 5 * s}, {5 * s, 300 * s}}, false},
		{"seven ages at random", []close{{s, 0}, {2 * s, 0}, {4 * s, 0}, {8 * s, 0}, {16 * s, 0}, {32 * s, 0}, {64 * s, 0}}, false},
		{"eight ages at random", []close{{s, 0}, {2 * s, 0}, {4 * s, 0}, {8 * s, 0}, {16 * s, 0}, {32 * s, 0}, {64 * s, 0}, {100 * s, 0}}, true},
		{"eight, and some that agree", []close{{s, 0}, {2 * s, 0}, {2 * s, 0}, {4 * s, 0}, {8 * s, 0}, {16 * s, 0}, {s, 0}, {32 * s, 0}, {64 * s, 0}, {100 * s, 0}}, true},
		{"servers of 1, 5, 20 and 75 s", []close{{s, 0}, {5 * s, 0}, {20 * s, 0}, {s, 0}, {75 * s, 0}, {5 * s, 0}, {s, 0}, {20 * s, 0}, {75 * s, 0}, {5 * s, 0}, {s, 0}}, false},
		{"then a timeout after all", []close{{s, 30 * s}, {3 * s, 30 * s}, {2 * s, 30 * s}, {5 * s, 9 * s}, {5 * s, 70 * s}, {5 * s, 5 * s}, {5 * s, 8 * s}, {5 * s, 20 * s}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for _, close := range tc.closes {
				seen := Close{At: c.now, Idle: close.idle, Open: close.idle}
				if close.life > 0 {
					seen.Opened = c.now.Add(-close.life)
				}
				l.SawClose(seen)
				c.add(time.Minute)
			}
			if l.pattern.shown != tc.shown {
				t.Fatalf("a pattern is shown: %v, want %v", l.pattern.shown, tc.shown)
			}
			if got := l.Limit(c.now, Optional{}); tc.shown && (got.Bound != BoundKeepAlive || got.Source != SourceAssumed) {
				t.Errorf("limit = %v, want no cap and nothing learned", got)
			}
		})
	}
}

// A client whose requests come at regular intervals has connections that end by their age
// be idle for the same time. What tells that from an idle timeout is that they have been
// idle for longer before.
func TestPatternOfARegularClient(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name     string
		lives    []time.Duration
		answered time.Duration // after so long, before they were idle for 960 ms
		shown    bool
	}{
		{"by age", []time.Duration{30 * s, 30 * s, 30 * s}, s, true},
		{"by age, within 5 %", []time.Duration{30 * s, 31 * s, 30500 * ms}, s, true},
		{"too few", []time.Duration{30 * s, 30 * s}, s, false},
		{"lives that differ more", []time.Duration{30 * s, 32 * s, 31 * s}, s, false},
		{"an idle timeout, after equally many requests", []time.Duration{30 * s, 30 * s, 30 * s}, 900 * ms, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for _, life := range tc.lives {
				c.add(time.Minute)
				for range enoughSeen {
					c.sighting(l, 3*s, 10*s)
					c.add(10 * ms)
				}
				l.SawClose(Close{At: c.now, Idle: 960 * ms, Open: 960 * ms, Opened: c.now.Add(-life), Answered: tc.answered})
			}
			c.add(restartWindow)
			if l.Limit(c.now, Optional{}); l.pattern.shown != tc.shown {
				t.Errorf("a pattern is shown: %v, want %v", l.pattern.shown, tc.shown)
			}
			// What was seen before the last of these closes counts on, once it is explained.
			if got := l.Limit(c.now, Optional{}).Unreplayable; (got > freshEnough) != tc.shown {
				t.Errorf("a request that cannot be replayed takes connections for %v; %v", got, l.Limit(c.now, Optional{}))
			}
		})
	}
}

// Several closes within a second are a restart, and no pattern.
func TestRestartIsNoPattern(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for idle := 100 * time.Millisecond; idle < time.Minute; idle *= 2 {
		c.sawClose(l, idle)
	}
	if l.pattern.shown {
		t.Error("a restart that met ten connections is taken for closes at random")
	}
}

// A pattern is over when there are no more such closes.
func TestPatternEnds(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for idle := time.Second; idle <= 3*time.Second; idle += time.Second {
		l.SawClose(Close{At: c.now, Idle: idle, Open: idle, Opened: c.now.Add(-30 * time.Second)})
		c.add(time.Minute)
	}
	c.add(time.Hour)
	c.sawClose(l, 2*time.Second)
	if got := l.Limit(c.now, Optional{}); got.Bound != BoundEarlyClose {
		t.Errorf("limit = %v, want it capped again", got)
	}
}

// Where no close is an idle timeout, connections are used for as long as they were
// seen open.
func TestPatternRaisesTheLimitToWhatWasSeen(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	const life = 30 * time.Second
	for i := range 6 {
		idle := time.Second << i * 2 / 3
		c.sighting(l, 20*time.Second, time.Duration(i)*time.Minute+20*time.Second)
		l.SawClose(Close{At: c.now, Idle: idle, Open: idle, Opened: c.now.Add(-life)})
		c.add(10 * time.Second)
	}
	for range 5 {
		c.sighting(l, 20*time.Second, 20*time.Second)
		c.add(10 * time.Second)
	}
	if got := l.Limit(c.now, Optional{}); got.Value != 19*time.Second || got.Unreplayable != got.Value {
		t.Errorf("limit = %v (%v for a POST), want 19 s", got, got.Unreplayable)
	}
}
