package idletime

import (
	"testing"
	"time"
)

// A connection that is dead without a close caps the limit, and teaches nothing.
//
// Checklist: P29.
func TestLostInSilence(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name  string
		idle  []time.Duration // at which requests were lost, a minute apart
		want  time.Duration   // the limit
		bound Bound
	}{
		{"at 30 s", []time.Duration{30 * s}, 28500 * ms, BoundSilence},
		{"below half of the limit it was something else", []time.Duration{20 * s}, 57 * s, BoundKeepAlive},
		{"twice it may have been, too", []time.Duration{20 * s, 22 * s}, 57 * s, BoundKeepAlive},
		{"three times it was not", []time.Duration{22 * s, 20 * s, 25 * s}, 9500 * ms, BoundSilence},
		{"on a connection just used it always is", []time.Duration{ms, ms, ms, ms}, 57 * s, BoundKeepAlive},
		{"the lowest counts", []time.Duration{50 * s, 30 * s, 40 * s}, 28500 * ms, BoundSilence},
		{"however often", []time.Duration{30 * s, 30 * s, 30 * s, 30 * s}, 28500 * ms, BoundSilence},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute})
			met := l.Limit(c.now, Optional{})
			for _, idle := range tc.idle {
				l.LostInSilence(c.now, c.now, idle, met.Value)
				c.add(time.Minute)
			}
			if got := l.Limit(c.now, Optional{}); got.Value != tc.want || got.Bound != tc.bound || got.Source != SourceConfigured {
				t.Errorf("limit = %v, want %v", got, tc.want)
			}
			c.add(lately)
			if got := l.Limit(c.now, Optional{}); got.Value != 57*s {
				t.Errorf("limit ten minutes later = %v, want 57 s", got)
			}
		})
	}
}

// Connections that are open for longer do not show that requests get through on them.
// Answers do.
//
// Checklist: P29.
func TestOnlyAnswersRefuteSilence(t *testing.T) {
	for _, proof := range []Proof{LivePath, Answered} {
		c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute})
		l.LostInSilence(c.now, c.now, 30*time.Second, l.Limit(c.now, Optional{}).Value)
		c.add(time.Minute)
		for i := range 10 {
			l.SawOpen(Sighting{At: c.now, Idle: 50 * time.Second, Opened: c.now.Add(-time.Duration(i+1) * time.Minute), Proof: proof})
		}
		if got := l.Limit(c.now, Optional{}); (got.Bound == BoundSilence) != (proof == LivePath) {
			t.Errorf("proof %d: %v", proof, got)
		}
	}
}

// Silence raises no limit: a path that lost a connection looks like one that the
// upstream keeps.
//
// Checklist: P29.
func TestSilenceRaisesNoLimit(t *testing.T) {
	for _, proof := range []Proof{Silence, LivePath} {
		c, l := newClock(), newLearner(defaults)
		l.SensorSawOpen(Sighting{At: c.now, Idle: 2 * time.Minute, Opened: c.now.Add(-time.Hour), Proof: proof})
		if got := l.Limit(c.now, Optional{}); (got.Source == SourceLearned) != (proof == LivePath) {
			t.Errorf("proof %d: limit = %v", proof, got)
		}
	}
}

// However many clients give up, and whenever they do, requests that were sent at one
// time have met one outage.
//
// Checklist: P29.
func TestOneOutageIsNoHabit(t *testing.T) {
	c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute})
	met := l.Limit(c.now, Optional{})
	sent := c.now
	for i := range 6 {
		c.add(5 * time.Second)
		l.LostInSilence(c.now, sent.Add(time.Duration(i)*300*time.Millisecond), 10*time.Second, met.Value)
	}
	if got := l.Limit(c.now, Optional{}); got.Value != met.Value {
		t.Errorf("limit = %v, want %v", got, met)
	}
}
