package idletime

import (
	"testing"
	"time"
)

// An upstream that closes right after each response, without saying so.
func TestConnectionsThatEndAtOnceAreNotReused(t *testing.T) {
	for _, tc := range []struct {
		name string
		ends string // of connections: x at once, . not
		want bool   // they are reused
	}{
		{"nothing known", "", true},
		{"seventeen", "xxxxxxxxxxxxxxxxx", true},
		{"eighteen of eighteen", "xxxxxxxxxxxxxxxxxx", false},
		{"eighteen of the last twenty", "......xxxxxxxxx.xxxxxxxxx", false},
		{"seventeen of the last twenty", "xxxxxxxx.xxxx.xxxxx.", true},
		{"one that was kept to look shows that the habit is gone", "xxxxxxxxxxxxxxxxxxxxxxxxxxx.x", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute})
			for _, end := range tc.ends {
				if end == 'x' {
					l.EndedAtOnce(c.now)
				} else {
					l.Lasted(c.now)
				}
				c.add(time.Second)
			}
			got := l.Limit(c.now, Optional{})
			if (got.Value > 0) != tc.want || (got.Bound == BoundAtOnce) == tc.want || got.Unreplayable != got.Value {
				t.Errorf("limit = %v, want reuse %v", got, tc.want)
			}
		})
	}
}

// One connection in ten minutes is kept to look.
func TestOneConnectionInTenMinutesLooks(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for range endsAtOnce {
		l.EndedAtOnce(c.now)
	}
	looks := 0
	for range 60 * 60 {
		if l.StartSensor(c.now) {
			looks++
			l.EndedAtOnce(c.now)
			l.EndSensor()
		}
		c.add(time.Second)
	}
	if looks != 6 {
		t.Errorf("%d connections were kept in an hour, want 6", looks)
	}
	c.add(memory)
	if !l.StartSensor(c.now) {
		t.Fatal("no look")
	}
	l.Lasted(c.now)
	if got := l.Limit(c.now, Optional{}); got.Value == 0 {
		t.Errorf("limit = %v after a connection lasted", got)
	}
}
