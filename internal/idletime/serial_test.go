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

// An upstream that answered as soon as idle connections were closed serves one
// connection at a time: it gets no sensor for an hour. One that did not is left
// alone for ten minutes.
//
// Checklist: P25.
func TestSerialUpstream(t *testing.T) {
	t.Run("closing idle connections helped", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		if l.Serial(c.now) || !l.MayYield(c.now) {
			t.Fatal("an upstream that nothing is known of is taken for a serial one")
		}
		l.Yielded(c.now, true)
		c.add(time.Hour - 1)
		if !l.Serial(c.now) || l.StartSensor(c.now) {
			t.Error("a sensor before the hour is over")
		}
		c.add(1)
		if l.Serial(c.now) || !l.StartSensor(c.now) {
			t.Error("no sensor after the hour")
		}
	})
	t.Run("it did not help", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.Yielded(c.now, false)
		c.add(memory - 1)
		if l.MayYield(c.now) || l.Serial(c.now) {
			t.Error("tried again too early")
		}
		c.add(1)
		if !l.MayYield(c.now) {
			t.Error("not tried again after ten minutes")
		}
	})
}
