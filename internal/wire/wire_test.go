package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// What the end of a connection tells.
func TestEnding(t *testing.T) {
	readError := func(err error) error { return &net.OpError{Op: "read", Err: os.NewSyscallError("read", err)} }
	const timeout = 15 * time.Second
	type says struct{ timedOut, reset, givenUp, lostPing bool }
	for _, test := range []struct {
		name string
		end  Ending
		want says
	}{
		{"the upstream closed it", Ending{Err: io.EOF, Quiet: time.Hour}, says{}},
		{"the upstream reset it", Ending{Err: readError(syscall.ECONNRESET)}, says{reset: true}},
		{"nothing came for read_timeout", Ending{Err: os.ErrDeadlineExceeded}, says{timedOut: true}},
		{"nobody answered the kernel", Ending{Err: readError(syscall.ETIMEDOUT)}, says{givenUp: true}},
		{"the host is gone", Ending{Err: readError(syscall.EHOSTUNREACH)}, says{givenUp: true}},
		{"the network is gone", Ending{Err: readError(syscall.ENETUNREACH)}, says{givenUp: true}},
		{"it was closed here, long after the last byte", Ending{Quiet: timeout}, says{lostPing: true}},
		{"it was closed here, right after a byte", Ending{Quiet: timeout - 1}, says{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := &test.end
			if got := (says{e.TimedOut(), e.Reset(), e.GivenUp(), e.LostPing(timeout)}); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
			if e.LostPing(0) {
				t.Error("a PING was lost where none is sent")
			}
		})
	}
	for last, want := range map[int]bool{0: true, 17: true, 128: true, 129: false} {
		if got := (&Ending{Last: last}).LastWords(); got != want {
			t.Errorf("%d bytes: LastWords = %v", last, got)
		}
	}
}

// piped returns a connection and its other end. A pipe cannot be watched.
func piped(tls bool) (n *Conn, peer net.Conn) {
	n = new(Conn)
	c, peer := net.Pipe()
	n.Wrap(c, Options{TLS: tls, OutOfData: func() {}})
	return n, peer
}

// read reads something, and returns the response time.
func read(t *testing.T, n *Conn) time.Duration {
	t.Helper()
	n.Enter()
	_, took, err := n.Fetch(make([]byte, 1024), false)
	if err != nil {
		t.Error(err)
	}
	return took
}

// Bytes count as a request or a response from the moment a request takes the
// connection; over TLS only if they are more than an alert.
func TestWhatCounts(t *testing.T) {
	for _, test := range []struct {
		tls    bool
		length int
		counts bool
	}{
		{false, 1, true},
		{true, 31, false},
		{true, 40, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, peer := piped(test.tls)
			message := make([]byte, test.length)
			n.Take(time.Now(), false)
			go func() {
				_, _ = peer.Read(make([]byte, 1024))
				_, _ = peer.Write(message)
			}()
			if _, err := n.Write(message); err != nil {
				t.Fatal(err)
			}
			read(t, n)
			if n.Sent() != test.counts || n.Responded() != test.counts {
				t.Errorf("TLS %v, %d bytes: sent = %v, responded = %v, want %v", test.tls, test.length, n.Sent(), n.Responded(), test.counts)
			}
			n.Take(time.Now(), false)
			if n.Sent() || n.Responded() {
				t.Errorf("TLS %v, %d bytes: they count for the next request", test.tls, test.length)
			}
		})
	}
}

// The idle clock starts when the last wait for data ended. Data that was there already
// does not move it.
func TestClocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, peer := piped(false)
		exchange := func(answer time.Duration) (took time.Duration, end time.Time) {
			n.Take(time.Now(), true)
			go func() {
				_, _ = peer.Read(make([]byte, 1024))
				time.Sleep(answer)
				_, _ = peer.Write([]byte("answer"))
			}()
			_, _ = n.Write([]byte("request"))
			return read(t, n), time.Now()
		}
		took, end := exchange(time.Second / 2)
		if took != time.Second/2 || !n.WaitedAt().Equal(end) {
			t.Errorf("took %v, waited until %v before the end", took, end.Sub(n.WaitedAt()))
		}
		if !n.ReadAt().Equal(end) {
			t.Errorf("the answer was read %v before the end", end.Sub(n.ReadAt()))
		}
		if took, _ := exchange(10 * time.Microsecond); took >= 0 || !n.WaitedAt().Equal(end) {
			t.Errorf("it measured twice in a second (%v), or the clock moved", took)
		}
		time.Sleep(2 * time.Second)
		if got := n.QuietFor(time.Now()); got != 2*time.Second {
			t.Errorf("quiet for %v", got)
		}
		if n.Watchable() || n.Waiting() || !n.LooksAlive(true) || n.LooksAlive(false) {
			t.Error("nobody waits for data, which only HTTP/1 minds")
		}
	})
}

// Only the first sign of the end is kept, and only the first close is one.
func TestFirstSignOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, peer := piped(false)
		if n.Ending() != nil || n.IsShut() {
			t.Error("it has ended")
		}
		peer.Close()
		n.Enter()
		_, _, err := n.Fetch(make([]byte, 1), false)
		time.Sleep(time.Second)
		n.End(time.Now(), err, 2)
		time.Sleep(time.Second)
		n.End(time.Now(), nil, 0)
		if e := n.Ending(); !errors.Is(e.Err, io.EOF) || e.InFlight != 2 || e.Quiet != time.Second {
			t.Errorf("%+v", e)
		}
		if !n.Shut() || n.Shut() || !n.IsShut() {
			t.Error("it is not shut once")
		}
	})
}

// SETTINGS are acknowledged between two Reads. A request is larger, or is sent while
// the upstream is listened to, and TLS reads tickets without an answer.
func TestSettingsRead(t *testing.T) {
	const settings, ack, request = 9, 9, ackSize + 1
	n, peer := piped(false)
	receive := func(bytes int) {
		go func() { _, _ = peer.Write(make([]byte, bytes)) }()
		read(t, n)
	}
	write := func(bytes int) {
		go func() { _, _ = peer.Read(make([]byte, 1024)) }()
		if _, err := n.Write(make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"a handshake", func() { receive(100); write(ack) }, false},
		{"the preface", func() { n.Begin(); write(ack) }, false},
		{"tickets", func() { receive(100) }, false},
		{"a request meanwhile", func() { write(request) }, false},
		{"a small one while it waits for data", func() { n.Enter(); write(ack) }, false},
		{"SETTINGS", func() { receive(settings) }, false},
		{"their acknowledgement", func() { write(ack) }, true},
		{"what follows", func() { receive(settings); write(request) }, true},
	} {
		if step.do(); n.SettingsRead() != step.want {
			t.Errorf("after %s: %v", step.name, !step.want)
		}
	}
}

// What was sent is settled once the upstream is seen to have it, until more is sent.
func TestSettled(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := new(Conn)
	n.Wrap(c, Options{OutOfData: func() {}})
	if !n.HasTCP() {
		t.Skip("the kernel does not tell")
	}
	if n.Settled() {
		t.Error("settled, though nobody has looked")
	}
	for i := range 3 {
		if _, err := n.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n.Settled() {
			t.Errorf("settled at once after write %d", i+1)
		}
		for began := time.Now(); !n.Settled(); time.Sleep(time.Millisecond) {
			if n.Listen(); time.Since(began) > time.Minute {
				t.Fatalf("not settled a minute after write %d", i+1)
			}
		}
	}
}
