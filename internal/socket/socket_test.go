package socket

import (
	"testing"
	"time"
)

// What tells that an idle connection is alive, with probes every 15 s.
//
// Checklist: P29.
func TestAlive(t *testing.T) {
	const interval = 15 * time.Second
	for _, test := range []struct {
		name  string
		info  Info
		alive bool
	}{
		{"an answer just now", Info{LastAck: time.Millisecond}, true},
		{"a probe is due", Info{LastAck: 29 * time.Second}, true},
		{"no answer for two probes", Info{LastAck: 31 * time.Second}, false},
		{"a probe is unanswered", Info{LastAck: 16 * time.Second, Probes: 1}, false},
		{"something was sent", Info{LastAck: time.Second, Unacked: 1}, false},
		{"a closed window that is probed", Info{LastAck: 2 * time.Second, Backoff: 5, Unsent: 1}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.info.Alive(interval); got != test.alive {
				t.Errorf("Alive = %v, want %v", got, test.alive)
			}
		})
	}
	if (Info{}).Alive(0) {
		t.Error("silence shows life where nothing is probed")
	}
}

// What several looks tell of a peer that was sent something.
//
// Checklist: P29.
func TestSilence(t *testing.T) {
	const s = time.Second
	type look struct {
		at   time.Duration
		info Info
		want Silence
	}
	for _, test := range []struct {
		name  string
		sent  time.Duration // 0: not known
		looks []look
	}{
		{"a request was sent just now on a connection that was idle", 1 * s, []look{
			{1*s + 10*time.Millisecond, Info{Unacked: 1, LastAck: 25 * s, LastSent: 10 * time.Millisecond}, Silence{For: 10 * time.Millisecond, All: true}},
		}},
		{"a request is lost", 1 * s, []look{
			{3 * s, Info{Unacked: 2, Backoff: 3, LastAck: 30 * s, LastSent: 600 * time.Millisecond}, Silence{For: 2 * s, Repeated: true, All: true}},
			{21 * s, Info{Unacked: 2, Backoff: 6, LastAck: 48 * s, LastSent: 7 * s}, Silence{For: 20 * s, Repeated: true, All: true}},
			{21*s + 1, Info{LastAck: 1, LastSent: 5}, Silence{}},
		}},
		{"a slow upstream has the request", 1 * s, []look{
			{60 * s, Info{LastAck: 59 * s, LastSent: 59 * s}, Silence{}},
		}},
		{"a second request to a slow upstream was sent just now", 1 * s, []look{
			{60 * s, Info{Unacked: 1, LastAck: 58 * s, LastSent: 1}, Silence{}},
			{61 * s, Info{LastAck: 1 * s, LastSent: 1 * s}, Silence{}},
		}},
		{"a second request to a slow and near upstream was sent again", 1 * s, []look{
			{60 * s, Info{Unacked: 1, Window: 9, Backoff: 1, LastAck: 59*s - time.Millisecond, LastSent: 1}, Silence{Repeated: true}},
		}},
		{"a second request to a slow upstream is lost", 1 * s, []look{
			{60 * s, Info{Unacked: 1, LastAck: 58 * s, LastSent: 1}, Silence{}},
			{63 * s, Info{Unacked: 1, Backoff: 3, LastAck: 61 * s, LastSent: 1 * s}, Silence{For: 3 * s, Repeated: true}},
		}},
		{"an upload goes on", 1 * s, []look{
			{2 * s, Info{Unacked: 9, LastAck: 20 * time.Millisecond, LastSent: 1}, Silence{}},
			{3 * s, Info{Unacked: 9, LastAck: 20 * time.Millisecond, LastSent: 1}, Silence{}},
			{4 * s, Info{Unacked: 9, LastAck: 20 * time.Millisecond, LastSent: 1}, Silence{}},
		}},
		{"an upload has stopped", 1 * s, []look{
			{2 * s, Info{Unacked: 9, LastAck: 20 * time.Millisecond, LastSent: 1}, Silence{}},
			{3 * s, Info{Unacked: 9, Backoff: 1, LastAck: 900 * time.Millisecond, LastSent: 1}, Silence{Repeated: true}},
			{9 * s, Info{Unacked: 9, Backoff: 5, LastAck: 7 * s, LastSent: 1}, Silence{For: 6 * s, Repeated: true}},
		}},
		{"a peer that reads nothing answers what it refused", 1 * s, []look{
			{40 * s, Info{Unacked: 1, Backoff: 7, Unsent: 1, LastAck: 24 * s, LastSent: 24*s + 1}, Silence{}},
			{41 * s, Info{Unacked: 1, Backoff: 7, Unsent: 1, LastAck: 25 * s, LastSent: 1}, Silence{Repeated: true}},
			{42 * s, Info{Unacked: 1, Backoff: 8, Unsent: 1, LastAck: 1 * s, LastSent: 1*s + 1}, Silence{}},
		}},
		{"a peer that reads nothing answers probes", 1 * s, []look{
			{41 * s, Info{Backoff: 7, Unsent: 1, LastAck: 25 * s, Probes: 1}, Silence{}},
			{42 * s, Info{Backoff: 8, Unsent: 1, LastAck: 1 * s}, Silence{}},
		}},
		{"a peer that read nothing is gone", 1 * s, []look{
			{41 * s, Info{Backoff: 7, Unsent: 1, LastAck: 25 * s, Probes: 2}, Silence{Repeated: true}},
			{61 * s, Info{Backoff: 8, Unsent: 1, LastAck: 45 * s, Probes: 3}, Silence{For: 20 * s, Repeated: true}},
		}},
		{"a request is lost, and the peer probes us", 1 * s, []look{
			{2 * s, Info{Unacked: 2, Window: 9, Acked: 7, Backoff: 2, LastAck: 9 * s, LastSent: 400 * time.Millisecond}, Silence{For: 1 * s, Repeated: true, All: true}},
			{21 * s, Info{Unacked: 2, Window: 9, Acked: 7, Backoff: 6, LastAck: 1 * s, LastSent: 7 * s}, Silence{For: 20 * s, Repeated: true, All: true}},
		}},
		{"an upload is slow, and loses packets", 1 * s, []look{
			{2 * s, Info{Unacked: 2, Window: 9, Acked: 7, Backoff: 2, LastAck: 9 * s, LastSent: 1}, Silence{For: 1 * s, Repeated: true, All: true}},
			{21 * s, Info{Unacked: 2, Window: 9, Acked: 8, Backoff: 2, LastAck: 1 * s, LastSent: 1}, Silence{Repeated: true}},
		}},
		{"a listener's queue is full", 1 * s, []look{
			{1*s + 100*time.Millisecond, Info{Unacked: 1, Window: 9, Acked: 1, LastAck: 101 * time.Millisecond, LastSent: 1}, Silence{}},
			{41 * s, Info{Unacked: 1, Window: 9, Acked: 1, Backoff: 7, LastAck: 40 * s, LastSent: 9 * s}, Silence{Repeated: true}},
			{81*s + 100*time.Millisecond, Info{Unacked: 1, Window: 9, Acked: 1, Backoff: 8, LastAck: 80 * s, LastSent: 9 * s}, Silence{For: 20 * s, Repeated: true}},
		}},
		{"a quiet stream in an outage", 0, []look{
			{40 * s, Info{LastAck: 40 * s, LastSent: 41 * s, Probes: 1}, Silence{}},
			{80 * s, Info{LastAck: 80 * s, LastSent: 81 * s, Probes: 2}, Silence{}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var w Watch
			start := time.Now()
			var sent time.Time
			if test.sent > 0 {
				sent = start.Add(test.sent)
			}
			for _, l := range test.looks {
				if got := w.Look(start.Add(l.at), l.info, sent); got != l.want {
					t.Errorf("after %v: %+v, want %+v", l.at, got, l.want)
				}
			}
		})
	}
}

// When a connection takes no more requests, and when what it carries counts as lost.
func TestHowLongSilenceTakes(t *testing.T) {
	for _, test := range []struct {
		silence       Silence
		overdue, lost bool
	}{
		{Silence{}, false, false},
		{Silence{For: time.Minute}, false, false},
		{Silence{For: 200 * time.Millisecond, Repeated: true}, false, false},
		{Silence{For: 300 * time.Millisecond, Repeated: true}, true, false},
		{Silence{For: 1100 * time.Millisecond, Repeated: true}, true, true},
	} {
		if s := test.silence; s.Overdue() != test.overdue || s.Lost() != test.lost {
			t.Errorf("%+v: overdue = %v, lost = %v", s, s.Overdue(), s.Lost())
		}
	}
}
