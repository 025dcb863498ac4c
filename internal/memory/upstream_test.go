package memory

import (
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// The last connection that could choose says what the next one will speak.
func TestProtocol(t *testing.T) {
	u := Upstream{H1: new(idletime.Learner), H2: new(idletime.Learner)}
	if got := u.Protocol(); got != Negotiated {
		t.Errorf("before the first connection: %v", got)
	}
	for _, test := range []struct {
		h2      bool
		want    Protocol
		learner *idletime.Learner
	}{{true, HTTP2, u.H2}, {false, HTTP1, u.H1}, {true, HTTP2, u.H2}} {
		if u.Chose(test.h2); u.Protocol() != test.want || u.Learner(test.h2) != test.learner {
			t.Errorf("HTTP/2 is chosen: %v; the protocol is %v", test.h2, u.Protocol())
		}
	}
}

// What has been idle since before the latest suspicion is suspect, whatever came before.
func TestSuspects(t *testing.T) {
	var u Upstream
	start := time.Now()
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	if u.Suspicious(at(-1000)) {
		t.Error("nothing has happened")
	}
	for _, test := range []struct {
		before           int
		suspect, trusted int
	}{{10, 10, 11}, {5, 10, 11}, {20, 20, 21}} {
		u.Suspect(at(test.before))
		if !u.Suspicious(at(test.suspect)) || u.Suspicious(at(test.trusted)) {
			t.Errorf("suspect before %d: idle since %d: %v, since %d: %v", test.before,
				test.suspect, u.Suspicious(at(test.suspect)), test.trusted, u.Suspicious(at(test.trusted)))
		}
	}
}
