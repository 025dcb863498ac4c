package owner

import (
	"testing"
	"time"
)

// A connection is looked at when its login may be over: nobody answers the offer, or the
// second step does not come. Later requests have nothing to do with it.
func TestLogin(t *testing.T) {
	now := time.Now()
	limit := now.Add(time.Minute)
	for _, tc := range []struct {
		name     string
		requests []bool // whether they had credentials
		idle     time.Duration
		underway bool
		due      time.Duration
	}{
		{"offered", []bool{false}, 0, false, answers},
		{"first step", []bool{true}, 0, true, takes},
		{"first step after an offer", []bool{false, false, true}, takes / 2, true, takes / 2},
		{"almost over", []bool{true}, takes - 1, true, lookThrough},
		{"no second step", []bool{true}, takes, false, time.Minute},
		{"both steps", []bool{true, true}, 0, false, time.Minute},
		{"no credentials any more", []bool{true, false}, 0, false, time.Minute},
		{"for ever", make([]bool, 300), 0, false, answers},
	} {
		l := &Login{Began: now}
		for _, credentials := range tc.requests {
			l.Sent(credentials)
		}
		if got := l.Underway(tc.idle); got != tc.underway {
			t.Errorf("%s: under way: %v", tc.name, got)
		}
		if got := l.Due(limit, now, tc.idle).Sub(now); got != tc.due {
			t.Errorf("%s: due in %v, want %v", tc.name, got, tc.due)
		}
		if got := l.Failed(answers); got != (l.sent == 0) || l.Failed(answers-1) {
			t.Errorf("%s: failed: %v", tc.name, got)
		}
	}
	var none *Login
	none.Sent(true)
	if none.Underway(0) {
		t.Error("a login without a pin")
	}
}
