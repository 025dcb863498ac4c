package idletime

import (
	"encoding/json"
	"testing"
	"time"
)

// What one process learned is of use in the next one.
func TestMemory(t *testing.T) {
	const s = time.Second
	nginx := func(c *clock) Memory { return Memory{KeepAlive: 75 * s, SeenAt: c.now.Add(-time.Hour)} }
	for _, tc := range []struct {
		name   string
		memory func(*clock) Memory
		then   func(*clock, *Learner)
		want   time.Duration // keep-alive
		source Source
	}{
		{"it counts at once", nginx, nil, 75 * s, SourceRemembered},
		{"what is announced counts more", nginx, func(c *clock, l *Learner) { l.Announced(c.now, 5*s) }, 5 * s, SourceAnnounced},
		{"a close of that age confirms it", nginx, func(c *clock, l *Learner) { c.sawClose(l, 75*s) }, 75 * s, SourceLearned},
		{"any close below beats it", nginx, func(c *clock, l *Learner) { c.sawClose(l, 30*s) }, safeKeepAlive, SourceAssumed},
		{"after a day it is a hint", func(c *clock) Memory { return Memory{KeepAlive: 75 * s, SeenAt: c.now.Add(-hintAfter)} }, nil, safeKeepAlive, SourceAssumed},
		{"which one close confirms", func(c *clock) Memory { return Memory{KeepAlive: 75 * s, SeenAt: c.now.Add(-30 * hintAfter)} },
			func(c *clock, l *Learner) { c.sawClose(l, 75*s) }, 75 * s, SourceLearned},
		{"one from the future is a hint, too", func(c *clock) Memory { return Memory{KeepAlive: 75 * s, SeenAt: c.now.Add(time.Hour)} }, nil, safeKeepAlive, SourceAssumed},
		{"at least that", func(c *clock) Memory { return Memory{KeepAlive: 120 * s, AtLeast: true, SeenAt: c.now} }, nil, 120 * s, SourceRemembered},
		{"and a close just below beats it", func(c *clock) Memory { return Memory{KeepAlive: 120 * s, AtLeast: true, SeenAt: c.now} },
			func(c *clock, l *Learner) { c.sawClose(l, 115*s) }, safeKeepAlive, SourceAssumed},
		{"a sensor that outlives all", nginx, func(c *clock, l *Learner) {
			l.SensorSawOpen(Sighting{At: c.now, Idle: 120 * s, Proof: LivePath})
		}, 120 * s, SourceLearned},
		{"no negative value", func(c *clock) Memory { return Memory{KeepAlive: -s, SeenAt: c.now} }, nil, safeKeepAlive, SourceAssumed},
		{"no endless value", func(c *clock) Memory { return Memory{KeepAlive: 1 << 62, SeenAt: c.now} }, nil, safeKeepAlive, SourceAssumed},
		{"nothing", func(*clock) Memory { return Memory{} }, nil, safeKeepAlive, SourceAssumed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(defaults)
			l.Import(c.now, tc.memory(c))
			if tc.then != nil {
				tc.then(c, l)
				c.add(restartWindow)
			}
			got := l.Limit(c.now, Optional{})
			if got.KeepAlive != tc.want || got.Source != tc.source {
				t.Errorf("= %v (%s), want %v (%s)", got.KeepAlive, got.Source, tc.want, tc.source)
			}
			if tc.source == SourceRemembered && (!l.StartSensor(c.now) || got.Unreplayable != got.Value) {
				t.Errorf("limit = %+v, want it for all requests, and a sensor at once", got)
			}
		})
	}
}

func TestMemoryRoundTrip(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	if m, ok := l.Export(c.now); ok {
		t.Fatalf("exported %+v without having learned anything", m)
	}
	for range 2 {
		c.sawClose(l, 75*time.Second)
		c.add(time.Minute)
	}
	m, ok := l.Export(c.now)
	if !ok || m.KeepAlive != 75*time.Second || m.AtLeast || c.now.Sub(m.SeenAt) != time.Minute {
		t.Fatalf("exported %+v, %v", m, ok)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var read Memory
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	c.add(time.Hour)
	next := newLearner(defaults)
	next.Import(c.now, read)
	if again, ok := next.Export(c.now); !ok || again.KeepAlive != m.KeepAlive || !again.SeenAt.Equal(m.SeenAt) {
		t.Errorf("exported again: %+v, %v; want %+v", again, ok, m)
	}
	c.sawClose(next, 5*time.Second)
	if m, ok := next.Export(c.now); ok {
		t.Errorf("exported %+v after a close that beat it", m)
	}
	l.Import(c.now, Memory{KeepAlive: 5 * time.Second, SeenAt: c.now})
	if got := l.Limit(c.now, Optional{}); got.KeepAlive != 75*time.Second || got.Source != SourceLearned {
		t.Errorf("limit = %v, want what this process learned itself", got)
	}
}
