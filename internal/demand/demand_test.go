package demand

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

const (
	ms = time.Millisecond
	s  = time.Second
)

// moment is a time in a test.
func moment(d time.Duration) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(d) }

// How many dials those that wait need at once, and want if they take long.
func TestDialsAtOnce(t *testing.T) {
	for _, test := range []struct {
		name       string
		waiting    Waiting
		upstream   Upstream
		need, want int
	}{
		{"nobody waits", Waiting{}, Upstream{}, 0, 0},
		{"one each over HTTP/1", Waiting{Requests: 5}, Upstream{}, 5, 5},
		{"but for those whose connection is on its way back", Waiting{Requests: 5, Returning: 2}, Upstream{}, 3, 3},
		{"as many are on their way back", Waiting{Requests: 5, Returning: 5}, Upstream{}, 0, 0},
		{"they share one over HTTP/2", Waiting{Requests: 5}, Upstream{Shares: true}, 1, 1},
		{"and take more where a connection has few streams", Waiting{Requests: 5}, Upstream{Shares: true, Streams: 2}, 3, 3},
		{"founders have one each", Waiting{Requests: 5, Founders: 2}, Upstream{Shares: true}, 3, 3},
		{"only founders wait", Waiting{Requests: 2, Founders: 2}, Upstream{Shares: true}, 2, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d Dials
			if need, want := d.Want(moment(0), test.waiting, test.upstream); need != test.need || want != test.want {
				t.Errorf("need %d, want %d; should be %d and %d", need, want, test.need, test.want)
			}
		})
	}
}

// A dial that hangs is one dial's matter: more are started, at intervals that double,
// from three times the usual time on.
func TestHedges(t *testing.T) {
	for _, test := range []struct {
		usable time.Duration
		at     []time.Duration // of the second dial, the third, ...
	}{
		{0, []time.Duration{1 * s, 3 * s, 7 * s, 15 * s}},
		{10 * ms, []time.Duration{250 * ms, 750 * ms, 1750 * ms}},
		{100 * ms, []time.Duration{300 * ms, 900 * ms, 2100 * ms}},
	} {
		var d Dials
		u := Upstream{Shares: true, Usable: test.usable}
		wants := func(at time.Duration) int {
			need, want := d.Want(moment(at), Waiting{Requests: 20}, u)
			if need != 1 {
				t.Errorf("usable in %v, after %v: %d are needed", test.usable, at, need)
			}
			return want
		}
		wants(0)
		for i, at := range test.at {
			if next := d.Next(); !next.Equal(moment(at)) {
				t.Errorf("usable in %v: the next dial after %v, want %v", test.usable, next.Sub(moment(0)), at)
			}
			if before, now := wants(at-1), wants(at); before != i+1 || now != i+2 {
				t.Errorf("usable in %v: %d dials just before %v, then %d, want %d more", test.usable, before, at, now, i+2)
			}
		}
		for range 20 {
			wants(d.Next().Sub(moment(0)))
		}
		if n := wants(d.Next().Sub(moment(0))); n != mostHedged {
			t.Errorf("usable in %v: %d dials in the end", test.usable, n)
		}
		if d.Want(moment(0), Waiting{}, u); !d.Next().IsZero() {
			t.Error("the clock goes on when nobody waits")
		}
	}
}

// opaque errors show nothing but their texts, as those of reverse_proxy's dials do.
type opaque struct{ error }

// Dials fail alike if their errors differ in numbers only.
func TestFailedAlike(t *testing.T) {
	refused := errors.New("connection refused")
	dial := func(port int, err error) error {
		return opaque{&net.OpError{Op: "dial", Err: fmt.Errorf("from port %d: %w", port, err)}}
	}
	var d Dials
	for i, step := range []struct {
		began time.Duration
		err   error         // nil: success
		since time.Duration // both had not begun before; 0: they did not fail alike
	}{
		{1 * s, dial(1, refused), 0},
		{2 * s, dial(2, refused), 1 * s},
		{3 * s, dial(3, errors.New("no route to host")), 0},
		{4 * s, dial(4, refused), 0},
		{6 * s, dial(5, refused), 4 * s},
		{5 * s, dial(6, refused), 5 * s},
		{7 * s, nil, 0},
		{8 * s, dial(7, refused), 0},
		{9 * s, dial(8, refused), 8 * s},
	} {
		if step.err == nil {
			d.Succeeded()
			continue
		}
		var want time.Time
		if step.since > 0 {
			want = moment(step.since)
		}
		if got := d.Failed(moment(step.began), step.err); !got.Equal(want) {
			t.Errorf("dial %d: failed alike since %v, want %v", i+1, got, want)
		}
	}
}

// Which errors of real dials are alike.
func TestWhatIsAlike(t *testing.T) {
	reset := func(port int) error {
		return &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET,
			Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443}}
	}
	expired := func(now string) error {
		return errors.New("x509: certificate has expired or is not yet valid: current time " + now + " is after 2026-01-01T00:00:00Z")
	}
	for name, tc := range map[string]struct {
		first, second error
		alike         bool
	}{
		"TLS is reset": {reset(40001), reset(40002), true},
		"a resolver does not answer": {
			&net.DNSError{Err: "read udp 127.0.0.1:41061->127.0.0.53:53: i/o timeout", Name: "a.test", Server: "127.0.0.53:53"},
			&net.DNSError{Err: "read udp 127.0.0.1:9->127.0.0.53:53: i/o timeout", Name: "a.test", Server: "127.0.0.53:53"}, true,
		},
		"a certificate has expired": {expired("2026-02-03T04:05:06Z"), expired("2026-02-03T04:05:07Z"), true},
		"refused, then reset":       {&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, reset(40001), false},
	} {
		t.Run(name, func(t *testing.T) {
			var d Dials
			d.Failed(moment(1*s), opaque{tc.first})
			if since := d.Failed(moment(2*s), opaque{tc.second}); since.IsZero() == tc.alike {
				t.Errorf("%v, then %v: alike since %v", tc.first, tc.second, since)
			}
		})
	}
}

// Idle connections are let go that were not lately in use at once.
func TestTrim(t *testing.T) {
	for _, test := range []struct {
		name       string
		inUse      int           // at once, at the beginning
		after      time.Duration // when nothing was in use since
		idle       int
		configured int
		closes     int
	}{
		{"those that were lately in use are needed", 50, 4 * s, 50, 0, 0},
		{"up to 32 for a minute", 50, 11 * s, 50, 0, 9},
		{"half of the others, rounded up", 50, 11 * s, 37, 0, 3},
		{"32 are no excess", 50, 11 * s, 32, 0, 0},
		{"no more than were in use", 10, 11 * s, 20, 0, 5},
		{"two in any case", 50, 3 * time.Minute, 3, 0, 1},
		{"nobody counts two", 50, 3 * time.Minute, 2, 0, 0},
		{"what the configuration keeps", 50, 3 * time.Minute, 20, 16, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			var i Idle
			i.InUse(moment(0), test.inUse)
			if n, next := i.Trim(moment(test.after), test.idle, test.configured); n != 0 || !next.IsZero() {
				t.Errorf("it closes %d though nobody watches", n)
			}
			due := i.Kept(moment(test.after-s), test.idle, test.configured)
			if excess := test.idle > max(2, test.configured); excess != !due.IsZero() {
				t.Fatalf("trimming begins at %v", due)
			}
			if again := i.Kept(moment(test.after-s), test.idle, test.configured); !again.IsZero() {
				t.Error("it begins twice")
			}
			if n, next := i.Trim(moment(test.after-1), test.idle, test.configured); n != 0 || !next.Equal(due) {
				t.Errorf("it closes %d too early, and goes on at %v", n, next)
			}
			n, next := i.Trim(moment(test.after), test.idle, test.configured)
			if n != test.closes {
				t.Errorf("it closes %d, want %d", n, test.closes)
			}
			pause := trimEvery
			if n == 0 {
				pause = lately
			}
			if !due.IsZero() && next.Sub(moment(test.after)) != pause {
				t.Errorf("it goes on after %v", next.Sub(moment(test.after)))
			}
			if n, next := i.Trim(moment(time.Hour), 2, 0); n != 0 || !next.IsZero() {
				t.Errorf("it goes on with two: %d, %v", n, next)
			}
		})
	}
}

// Connections are kept warm for an hour after a request, and not for a configuration
// that is gone.
func TestWarm(t *testing.T) {
	var w Warm
	if w.Wanted(moment(0), 0, 0) {
		t.Error("nobody has asked")
	}
	w.Used(moment(0), 7)
	for _, test := range []struct {
		after   time.Duration
		renewal int64
		wanted  bool
	}{{0, 7, true}, {time.Hour - 1, 7, true}, {time.Hour, 7, false}, {s, 8, false}} {
		if got := w.Wanted(moment(test.after), 0, test.renewal); got != test.wanted {
			t.Errorf("after %v, in renewal %d: %v", test.after, test.renewal, got)
		}
	}
	if w.Wanted(moment(time.Minute), time.Minute, 7) || !w.Wanted(moment(time.Minute-1), time.Minute, 7) {
		t.Error("not for as long as is said")
	}
	if w.Stop(); w.Wanted(moment(s), 0, 7) {
		t.Error("it goes on after Stop")
	}
	if w.Used(moment(s), 8); !w.Wanted(moment(s), 0, 8) {
		t.Error("the next request does not start it again")
	}
}

// Dials that are of no use become rare.
func TestBackOff(t *testing.T) {
	var w Warm
	now := moment(0)
	for i, pause := range []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, time.Minute, time.Minute} {
		if !w.MayDial(now) {
			t.Fatalf("dial %d: too early", i+1)
		}
		if !w.Gone(now, false, s-1) {
			t.Fatalf("dial %d: it was of use", i+1)
		}
		w.BackOff(now.Add(pause - 1)) // which failed together with it
		if got := w.RetryAt().Sub(now); got != pause || w.MayDial(now.Add(pause-1)) {
			t.Errorf("dial %d: a pause of %v, want %v", i+1, got, pause)
		}
		if look := w.NextLook(now); !look.Equal(w.RetryAt()) {
			t.Errorf("dial %d: the next look after %v", i+1, look.Sub(now))
		}
		now = w.RetryAt()
	}
	if look := w.NextLook(now); look.Sub(now) != redialAfter {
		t.Errorf("the next look after %v", look.Sub(now))
	}
	for _, used := range []bool{true, false} {
		if w.BackOff(now); w.Gone(now, used, redialAfter) {
			t.Error("a connection that was of use has dials wait")
		}
		now = w.RetryAt()
		if w.BackOff(now); w.RetryAt().Sub(now) != redialAfter {
			t.Errorf("the next failure costs %v", w.RetryAt().Sub(now))
		}
		now = w.RetryAt()
	}
}
