package idletime

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	for _, tc := range []struct {
		name  string
		usual time.Duration // 0: no response yet
		want  time.Duration
	}{
		{"unknown", 0, time.Second},
		{"fast", 10 * time.Millisecond, time.Second},
		{"slow", 2 * time.Second, 6 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for range 10 {
				if tc.usual > 0 {
					l.Responded(c.now, tc.usual)
				}
			}
			if got := l.Patience(c.now); got != tc.want {
				t.Errorf("= %v, want %v", got, tc.want)
			}
		})
	}
}

// An upstream that answered twice as soon as idle connections were closed serves one
// connection at a time: it gets no sensor for an hour. One that did not is left
// alone for ten minutes. Once may be by chance, so the second time comes later.
//
// Checklist: P25.
func TestSerialUpstream(t *testing.T) {
	t.Run("closing idle connections helped", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		if l.Serial(c.now) || !l.MayYield(c.now) {
			t.Fatal("an upstream that nothing is known of is taken for a serial one")
		}
		l.Yielded(c.now, true)
		if l.Serial(c.now) || l.Patience(c.now) != 1500*time.Millisecond || !l.MayYield(c.now) {
			t.Errorf("after once: serial %t, patience %v", l.Serial(c.now), l.Patience(c.now))
		}
		c.add(time.Minute)
		l.Yielded(c.now, true)
		if l.Patience(c.now) != time.Second {
			t.Errorf("after twice: patience %v", l.Patience(c.now))
		}
		c.add(time.Hour - 1)
		if !l.Serial(c.now) || l.StartSensor(c.now) {
			t.Error("a sensor before the hour is over")
		}
		c.add(1)
		if l.Serial(c.now) || !l.StartSensor(c.now) {
			t.Error("no sensor after the hour")
		}
	})
	for name, between := range map[string]func(*clock, *Learner){
		"it helped twice, more than an hour apart": func(c *clock, _ *Learner) { c.add(time.Hour) },
		"it helped twice, and did not in between":  func(c *clock, l *Learner) { l.Yielded(c.now, false) },
	} {
		t.Run(name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			l.Yielded(c.now, true)
			between(c, l)
			l.Yielded(c.now, true)
			if l.Serial(c.now) {
				t.Error("taken for a serial one")
			}
		})
	}
	t.Run("it did not help", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.Yielded(c.now, false)
		c.add(lately - 1)
		if l.MayYield(c.now) || l.Serial(c.now) {
			t.Error("tried again too early")
		}
		c.add(1)
		if !l.MayYield(c.now) {
			t.Error("not tried again after ten minutes")
		}
	})
}
