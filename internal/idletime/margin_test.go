package idletime

import (
	"testing"
	"time"
)

func TestLearnerRaces(t *testing.T) {
	c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: 10 * time.Second})
	margin := func() time.Duration { return l.Limit(c.now, Optional{}).Margin }
	if margin() != 500*time.Millisecond {
		t.Fatalf("margin = %v", margin())
	}
	l.Raced(c.now)
	l.Raced(c.now.Add(raceInterval - 1))
	if margin() != time.Second {
		t.Errorf("margin after races within 10 s = %v, want 1s", margin())
	}
	c.add(raceInterval)
	l.Raced(c.now)
	if margin() != 2*time.Second {
		t.Errorf("margin after the next race = %v, want 2s", margin())
	}
	for range 20 {
		c.add(raceInterval)
		l.Raced(c.now)
	}
	if margin() != 5*time.Second {
		t.Errorf("margin after many races = %v, want K/2", margin())
	}
	c.add(1000 * time.Minute)
	if margin() != 500*time.Millisecond {
		t.Errorf("margin after a long time = %v, want 500ms", margin())
	}
	l.Raced(c.now)
	c.add(lately)
	if margin() != 900*time.Millisecond {
		t.Errorf("margin ten minutes after a race = %v, want 900ms", margin())
	}
}

func TestLearnerRoundTrip(t *testing.T) {
	c, l := newClock(), newLearner(Config{MaxIdle: 2 * time.Minute, KeepAlive: 2 * time.Second})
	l.Connected(c.now, 40*time.Millisecond)
	l.Responded(c.now, 90*time.Millisecond)
	l.Responded(c.now, 50*time.Millisecond)
	l.Connected(c.now, time.Second) // a lost SYN
	if got := l.Limit(c.now, Optional{}).Margin; got != 200*time.Millisecond {
		t.Errorf("margin = %v, want 2 x 50 ms + 100 ms", got)
	}
}
