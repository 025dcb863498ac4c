package idletime

import (
	"testing"
	"time"
)

// sense lets a sensor see that the upstream closes it at this age, and time pass
// until that is judged.
func sense(t *testing.T, c *clock, l *Learner, age time.Duration) {
	t.Helper()
	if !l.StartSensor(c.now) {
		t.Fatalf("no sensor, with %v", l.Limit(c.now, Optional{}))
	}
	c.add(age)
	c.sawClose(l, age)
	l.EndSensor()
	c.add(restartWindow)
}

func TestLearnerSensor(t *testing.T) {
	second := time.Second
	t.Run("at most one", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		if !l.StartSensor(c.now) || l.StartSensor(c.now) {
			t.Fatal("want one sensor, not two")
		}
		l.EndSensor()
		if !l.StartSensor(c.now) {
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
		if l.StartSensor(c.now) {
			t.Error("a sensor although the value is confirmed")
		}
		c.add(lately)
		if !l.StartSensor(c.now) {
			t.Error("no sensor after ten minutes")
		}
	})
	t.Run("corrects two restarts that met connections of one age", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for _, age := range []time.Duration{2 * second, 2 * second, 75 * second, 75 * second} {
			sense(t, c, l, age)
		}
		if got := l.Limit(c.now, Optional{}).KeepAlive; got != 75*second {
			t.Errorf("keep-alive value = %v, want 75s", got)
		}
	})
	t.Run("outliving max_idle_time", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.StartSensor(c.now)
		c.add(2 * time.Minute)
		l.SensorSawOpen(Sighting{At: c.now, Idle: 2 * time.Minute, Proof: LivePath})
		l.EndSensor()
		if got := l.Limit(c.now, Optional{}); got.KeepAlive != 2*time.Minute || got.Source != SourceLearned {
			t.Errorf("limit = %v, want at least 2 m learned", got)
		}
		if l.StartSensor(c.now) {
			t.Error("a sensor although one has just outlived max_idle_time")
		}
	})
	t.Run("outliving max_idle_time breaks no promise", func(t *testing.T) {
		for _, promised := range []time.Duration{65 * second, 30 * second} {
			c, l := newClock(), newLearner(Config{MaxIdle: time.Minute})
			l.report = func(e Event) {
				if e.Broken > 0 {
					t.Errorf("promised %v: event %+v, but nothing was closed early", promised, e)
				}
			}
			l.Announced(c.now, promised)
			want := l.Limit(c.now, Optional{})
			c.sawClose(l, 10*second) // a restart
			c.add(2 * second)
			if !l.StartSensor(c.now) {
				t.Fatal("no sensor after an early close")
			}
			c.add(time.Minute)
			l.Announced(c.now, promised)
			l.SensorSawOpen(Sighting{At: c.now, Idle: 2 * time.Minute, Proof: LivePath})
			l.EndSensor()
			c.add(lately) // the cap stays for its time
			l.Announced(c.now, promised)
			if got := l.Limit(c.now, Optional{}); got != want {
				t.Errorf("promised %v: limit = %v, want %v as before", promised, got, want)
			}
		}
	})
	t.Run("none while the value is announced", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		l.Announced(c.now, 5*second)
		if l.StartSensor(c.now) {
			t.Error("a sensor")
		}
	})
	t.Run("one to look into an early close", func(t *testing.T) {
		c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: 60 * second})
		if l.StartSensor(c.now) {
			t.Error("a sensor although the value is configured")
		}
		c.sawClose(l, 5*second)
		if !l.StartSensor(c.now) {
			t.Error("no sensor after an early close")
		}
	})
	t.Run("every ten minutes while nothing is reused", func(t *testing.T) {
		c, l := newClock(), newLearner(defaults)
		for range mostNeeded {
			c.sawClose(l, 100*time.Millisecond)
			c.add(time.Minute)
		}
		if got := l.Limit(c.now, Optional{}); got.Value != 0 {
			t.Fatalf("limit = %v, want no reuse", got)
		}
		if !l.StartSensor(c.now) {
			t.Fatal("no first sensor")
		}
		l.EndSensor()
		c.add(lately - 1)
		if l.StartSensor(c.now) {
			t.Error("a sensor too early")
		}
		c.add(1)
		if !l.StartSensor(c.now) {
			t.Error("no sensor after ten minutes")
		}
	})
}
