package idletime

import (
	"testing"
	"time"
)

// sighting tells l that a connection which was opened ago was seen open at an idle
// age.
func (c *clock) sighting(l *Learner, idle, ago time.Duration) {
	l.SawOpen(Sighting{At: c.now, Idle: idle, Opened: c.now.Add(-ago), Proof: LivePath})
}

// What a request that cannot be replayed may take while K is unknown.
func TestEvidenceOfOpenConnections(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	seen := func(n int, idle time.Duration) func(*clock, *Learner) {
		return func(c *clock, l *Learner) {
			for range n {
				c.sighting(l, idle, idle)
				c.add(10 * s)
			}
		}
	}
	closed := func(idle time.Duration) func(*clock, *Learner) {
		return func(c *clock, l *Learner) { c.sawClose(l, idle); c.add(time.Minute) }
	}
	wait := func(d time.Duration) func(*clock, *Learner) {
		return func(c *clock, _ *Learner) { c.add(d) }
	}
	for _, tc := range []struct {
		name  string
		steps []func(*clock, *Learner)
		want  time.Duration
	}{
		{"nothing seen", nil, 500 * ms},
		{"four connections are too few", []func(*clock, *Learner){seen(4, 3*s)}, 500 * ms},
		{"five will do", []func(*clock, *Learner){seen(5, 3*s)}, 2800 * ms},
		{"the fifth largest age counts", []func(*clock, *Learner){seen(4, 3*s), seen(3, 2*s), seen(9, s)}, 1800 * ms},
		{"not above the limit itself", []func(*clock, *Learner){seen(5, 30*s)}, 3800 * ms},
		{"never below 500 ms", []func(*clock, *Learner){seen(5, 600*ms)}, 500 * ms},
		{"for ten minutes", []func(*clock, *Learner){seen(5, 3*s), wait(9 * time.Minute)}, 2800 * ms},
		{"not for longer", []func(*clock, *Learner){seen(5, 3*s), wait(lately)}, 500 * ms},
		{"a close below takes all back", []func(*clock, *Learner){seen(9, 3*s), closed(2 * s)}, 500 * ms},
		{"also one of a restart", []func(*clock, *Learner){seen(9, 3*s), func(c *clock, l *Learner) {
			c.sawClose(l, s)
			c.sawClose(l, 3*s)
			c.add(time.Minute)
		}}, 500 * ms},
		{"a close above takes nothing back", []func(*clock, *Learner){seen(5, 2*s), closed(3500 * ms)}, 1825 * ms},
		{"what is seen after the close counts, below its cap", []func(*clock, *Learner){closed(2 * s), seen(4, 3*s), seen(9, 1500*ms)}, 1400 * ms},
		{"five that outlived it end the cap, too", []func(*clock, *Learner){closed(2 * s), seen(5, 3*s)}, 2800 * ms},
		{"connections of one burst will do", []func(*clock, *Learner){func(c *clock, l *Learner) {
			for i := range 5 {
				c.sighting(l, 3*s, 3*s+time.Duration(i)*ms)
			}
		}}, 2800 * ms},
		{"but not of one instant", []func(*clock, *Learner){func(c *clock, l *Learner) {
			for range 50 {
				c.sighting(l, 3*s, 3*s)
			}
		}}, 500 * ms},
		{"one connection seen often is one", []func(*clock, *Learner){func(c *clock, l *Learner) {
			for i := range time.Duration(50) {
				c.sighting(l, 3*s, 10*s+i*s)
				c.add(s)
			}
		}}, 500 * ms},
		{"of one connection the largest age counts", []func(*clock, *Learner){seen(4, 3*s), func(c *clock, l *Learner) {
			c.sighting(l, 3*s, 20*s)
			c.add(s)
			c.sighting(l, s, 21*s)
		}}, 2800 * ms},
		{"many small ages do not displace large ones", []func(*clock, *Learner){seen(5, 3*s), seen(30, 600*ms)}, 2800 * ms},
		{"silence shows nothing", []func(*clock, *Learner){func(c *clock, l *Learner) {
			for range 9 {
				l.SawOpen(Sighting{At: c.now, Idle: 3 * s, Opened: c.now.Add(-3 * s), Proof: Silence})
				c.add(10 * s)
			}
		}}, 500 * ms},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			for _, step := range tc.steps {
				step(c, l)
			}
			if got := l.Limit(c.now, Optional{}); got.Unreplayable != tc.want {
				t.Errorf("= %v, want %v; %v", got.Unreplayable, tc.want, got)
			}
		})
	}
}

// As soon as K is known, the evidence does not matter.
func TestEvidenceEndsWhereTheTimeoutIsKnown(t *testing.T) {
	c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: 10 * time.Second})
	if got := l.Limit(c.now, Optional{}); got.Unreplayable != got.Value || got.Value != 9500*time.Millisecond {
		t.Errorf("limit = %+v, want 9.5 s for all requests", got)
	}
}
