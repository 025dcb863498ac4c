package idletime

import (
	"testing"
	"time"
)

// An upstream that closes right after each response, without saying so.
func TestConnectionsThatEndAtOnceAreNotReused(t *testing.T) {
	for _, tc := range []struct {
		name string
		ends string // of connections: x at once, m as it carried a second request, . not
		want bool   // they are reused
	}{
		{"nothing known", "", true},
		{"seventeen", "xxxxxxxxxxxxxxxxx", true},
		{"eighteen of eighteen", "xxxxxxxxxxxxxxxxxx", false},
		{"eighteen of the last twenty", "......xxxxxxxxx.xxxxxxxxx", false},
		{"seventeen of the last twenty", "xxxxxxxx.xxxx.xxxxx.", true},
		{"one that was kept to look shows that the habit is gone", "xxxxxxxxxxxxxxxxxxxxxxxxxxx.x", true},
		{"eighteen as they carried a request", "mmmmmmmmmmmmmmmmmm", false},
		{"one shows that the requests were the reason", "mmmmmmmmmmmmmmmmmm.mmmmmmmmmmmmmmmmmmmmmmmmmmm", true},
		{"though connections also end by themselves", "mmmmmmmmmmmmmmmmmm.mxmxmxmxmxmxmxmxmxmxmxmxmxmxm", true},
		{"but not all the time", "mmmmmmmmmmmmmmmmmm.xxxxxxxxxxxxxxxxxx", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute})
			for _, end := range tc.ends {
				switch end {
				case '.':
					l.Lasted(c.now)
				default:
					l.EndedAtOnce(c.now, end == 'm')
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

// One connection a minute is kept to look. Where requests may have been the reason, it is
// the next one.
func TestOneConnectionAMinuteLooks(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for range endsAtOnce {
		l.EndedAtOnce(c.now, false)
	}
	looks := 0
	for range 60 * 60 {
		if l.StartSensor(c.now) {
			looks++
			l.EndedAtOnce(c.now, false)
			l.EndSensor()
		}
		c.add(time.Second)
	}
	if looks != 60 {
		t.Errorf("%d connections were kept in an hour, want 60", looks)
	}
	c.add(endsLook)
	if !l.StartSensor(c.now) {
		t.Fatal("no look")
	}
	l.Lasted(c.now)
	if got := l.Limit(c.now, Optional{}); got.Value == 0 {
		t.Errorf("limit = %v after a connection lasted", got)
	}
}

// Requests that make an upstream close their connection, one after the other, end its
// reuse until the next connection that carries none was looked at.
func TestRequestsThatEndConnections(t *testing.T) {
	c, l := newClock(), newLearner(defaults)
	for range endsAtOnce {
		l.EndedAtOnce(c.now, true)
	}
	if got := l.Limit(c.now, Optional{}); got.Value > 0 || !l.StartSensor(c.now) {
		t.Fatalf("limit = %v, or no connection is kept", got)
	}
	opened := c.now
	c.add(250 * time.Millisecond)
	l.SensorSawOpen(Sighting{At: c.now, Idle: 250 * time.Millisecond, Opened: opened, Proof: LivePath})
	for range 100 {
		if got := l.Limit(c.now, Optional{}); got.Value == 0 {
			t.Fatalf("limit = %v", got)
		}
		l.EndedAtOnce(c.now, true)
		c.add(time.Second)
	}
}
