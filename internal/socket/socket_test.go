package socket

import (
	"testing"
	"time"
)

// What the numbers mean, with probes every 15 s.
//
// Checklist: P29.
func TestMeaning(t *testing.T) {
	const interval = 15 * time.Second
	for _, test := range []struct {
		name       string
		info       Info
		waiting    time.Duration // since a request was sent
		alive      bool
		unanswered time.Duration
		lost       bool
	}{
		{"an answer just now", Info{LastAck: time.Millisecond}, time.Minute, true, 0, false},
		{"a probe is due", Info{LastAck: 29 * time.Second}, time.Minute, true, 0, false},
		{"no answer for two probes", Info{LastAck: 31 * time.Second}, time.Minute, false, 0, false},
		{"a probe is unanswered", Info{LastAck: 16 * time.Second, Probes: 1}, time.Minute, false, 0, false},
		{"a request was sent just now", Info{LastAck: 25 * time.Second, Unacked: 1}, 10 * time.Millisecond, false, 10 * time.Millisecond, false},
		{"a request was sent again", Info{LastAck: 25 * time.Second, Unacked: 2, Backoff: 2}, 900 * time.Millisecond, false, 900 * time.Millisecond, false},
		{"a request is lost", Info{LastAck: 30 * time.Second, Unacked: 2, Retransmits: 3, Backoff: 3}, 3 * time.Second, false, 3 * time.Second, true},
		{"an upload has stopped", Info{LastAck: 21 * time.Second, Unacked: 9, Backoff: 7}, time.Minute, false, 21 * time.Second, true},
		{"an upload goes on", Info{LastAck: 20 * time.Millisecond, Unacked: 9}, time.Minute, false, 20 * time.Millisecond, false},
		{"a closed window that is probed", Info{LastAck: 2 * time.Second, Backoff: 5}, time.Minute, true, 0, false},
		{"a quiet stream", Info{LastAck: 5 * time.Minute}, 5 * time.Minute, false, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.info.Alive(interval); got != test.alive {
				t.Errorf("Alive = %v, want %v", got, test.alive)
			}
			if got := test.info.Unanswered(test.waiting); got != test.unanswered {
				t.Errorf("Unanswered = %v, want %v", got, test.unanswered)
			}
			if got := test.info.Lost(test.waiting); got != test.lost {
				t.Errorf("Lost = %v, want %v", got, test.lost)
			}
		})
	}
	if (Info{}).Alive(0) {
		t.Error("silence shows life where nothing is probed")
	}
}
