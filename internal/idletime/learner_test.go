package idletime

import (
	"testing"
	"time"
)

// clock is a hand-driven clock for the learner, which is told the time.
type clock struct{ now time.Time }

func newClock() *clock               { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }
func (c *clock) add(d time.Duration) { c.now = c.now.Add(d) }
func newLearner(c Config) *Learner   { return NewLearner(c, nil) }

// sawClose tells l of a close at an idle age that is exactly known.
func (c *clock) sawClose(l *Learner, age time.Duration) {
	l.SawClose(Close{At: c.now, Idle: age, Open: age})
}

var defaults = Config{MaxIdle: 2 * time.Minute}

func (l *Learner) value(c *clock) time.Duration { return l.Limit(c.now, Optional{}).Value }

func TestLearnerAnnounced(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	l.Announced(c.now, 5*time.Second)
	l.Announced(c.now, 3*time.Second)
	l.Announced(c.now, 9*time.Second)
	if got := l.Limit(c.now, Optional{}).KeepAlive; got != 3*time.Second {
		t.Errorf("upstream's value = %v, want the smallest", got)
	}
	if got := l.Limit(c.now, Known(9*time.Second)).KeepAlive; got != 9*time.Second {
		t.Errorf("connection's value = %v, want its own", got)
	}
	c.add(lately)
	l.Announced(c.now, 9*time.Second)
	if got := l.Limit(c.now, Optional{}).KeepAlive; got != 3*time.Second {
		t.Errorf("after 10 minutes = %v, want 3s still", got)
	}
	c.add(lately)
	if got := l.Limit(c.now, Optional{}).KeepAlive; got != 9*time.Second {
		t.Errorf("after 20 minutes = %v, want 9s", got)
	}
	c.add(2 * lately)
	if got := l.Limit(c.now, Optional{}).Source; got != SourceAssumed {
		t.Errorf("long after = %v, want it forgotten", got)
	}
}

func TestLearnerReports(t *testing.T) {
	var got []Event
	c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute})
	l.report = func(e Event) { got = append(got, e) }
	for range 4 {
		c.sawClose(l, 5*time.Second)
		c.add(time.Minute)
	}
	l.value(c)
	want := Event{KeepAlive: 5 * time.Second, Broken: time.Minute, Source: SourceConfigured}
	if len(got) != 1 || got[0] != want {
		t.Errorf("events = %+v, want once %+v", got, want)
	}
}

// Whatever is told in whatever order, a limit stays within what the configuration
// and K allow, and a request that cannot be replayed is never allowed more.
func FuzzLearner(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"))
	f.Add([]byte("\x00\x20\x00\x21\x08\xff\x00\x20\x02\x40\x0b\x80"))
	f.Fuzz(func(t *testing.T, events []byte) {
		c, l := newClock(), newLearner(defaults)
		for i := 0; i+1 < min(len(events), 400); i += 2 {
			age := time.Duration(events[i+1]) * time.Duration(events[i+1]) * 2 * time.Millisecond
			seen := Sighting{At: c.now, Idle: age, Opened: c.now.Add(-2 * age), Proof: Proof(events[i+1] % 3)}
			switch events[i] % 13 {
			case 0:
				l.SawClose(Close{At: c.now, Idle: age, Open: age / 2, Opened: seen.Opened})
			case 1:
				l.SawOpen(seen)
			case 2:
				l.SensorSawOpen(seen)
			case 3:
				l.Raced(c.now)
			case 4:
				l.Announced(c.now, age)
			case 5:
				l.Connected(c.now, age/100)
			case 6:
				l.Responded(c.now, age)
			case 7:
				l.LostInSilence(c.now, c.now.Add(-age), age, l.Limit(c.now, Optional{}).Value)
			case 8:
				c.add(10 * age)
			case 9:
				l.Import(c.now, Memory{KeepAlive: age, SeenAt: c.now.Add(-age), AtLeast: age > time.Second})
			case 10:
				l.EndedAtOnce(c.now, false)
			case 11:
				l.Lasted(c.now)
			case 12:
				if l.StartSensor(c.now) {
					l.EndSensor()
				}
			}
			for _, limit := range []Limit{l.Limit(c.now, Optional{}), l.Limit(c.now, Known(age)), l.UnusedLimit(c.now)} {
				if limit.Value < 0 || limit.Value > defaults.MaxIdle || limit.Value > limit.KeepAlive || limit.Margin < 0 ||
					limit.Unreplayable < 0 || limit.Unreplayable > limit.Value {
					t.Fatalf("%v (%v for what cannot be replayed), margin %v, K %v", limit, limit.Unreplayable, limit.Margin, limit.KeepAlive)
				}
			}
			if m, ok := l.Export(c.now); ok && !m.valid() {
				t.Fatalf("exported %+v", m)
			}
			c.add(time.Duration(events[i]) * 10 * time.Millisecond)
		}
	})
}

// A limit stands for a moment, but not against what is announced or observed.
func TestLimitStands(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	assumed := l.value(c)
	if got := l.Limit(c.now, Known(time.Minute)).Value; got <= assumed {
		t.Errorf("limit of a connection that announced a minute = %v, of others %v", got, assumed)
	}
	if got := l.value(c); got != assumed {
		t.Errorf("limit of others afterwards = %v, want %v", got, assumed)
	}
	l.SawClose(Close{At: c.now, Idle: 2 * time.Second, Open: 2 * time.Second})
	if got := l.value(c); got >= assumed {
		t.Errorf("limit after an early close = %v, want less than %v", got, assumed)
	}
}

// BenchmarkLimit asks for an idle limit, as every take-out does: while the last one
// stands, and afterwards, with as much in memory as there is room for.
func BenchmarkLimit(b *testing.B) {
	for _, test := range []struct {
		name string
		step time.Duration
	}{{"stands", 0}, {"anew", limitStands}} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			c, l := newClock(), newLearner(defaults)
			for i := range maxSightings {
				l.SawOpen(Sighting{At: c.now, Idle: leastTimeout, Opened: c.now.Add(time.Duration(i) * time.Second), Proof: LivePath})
			}
			for b.Loop() {
				l.Limit(c.now, Optional{})
				c.add(test.step)
			}
		})
	}
}
