package fake

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// get asks for / on a connection. Where no answer is to come, that takes 300 ms.
func get(c net.Conn, answered bool) error {
	patience := 300 * time.Millisecond
	if answered {
		patience = time.Minute
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n")); err != nil {
		return err
	}
	_, err := http.ReadResponse(bufio.NewReader(c), nil)
	return err
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if errors.Is(err, syscall.ECONNRESET) { // already
		c, _ = net.Pipe()
		_ = c.Close()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Each fault looks to a client as it should.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		admit func(t *testing.T, c net.Conn) net.Conn
		ok    bool
		open  int64 // connections, as the upstream sees it
	}{
		{"none", func(_ *testing.T, c net.Conn) net.Conn { return c }, true, 1},
		{"silent", func(*testing.T, net.Conn) net.Conn { return nil }, false, 1},
		{"reset", func(_ *testing.T, c net.Conn) net.Conn { Reset(c); return nil }, false, 0},
		{"deaf", func(t *testing.T, c net.Conn) net.Conn {
			if err := Deafen(c); err != nil && !(errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux") {
				t.Error(err)
			}
			return c
		}, runtime.GOOS != "linux", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			admitted := make(chan struct{})
			l, err := Listen(func(_ int64, c net.Conn) net.Conn {
				defer close(admitted)
				return test.admit(t, c)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Stop()
			if err := l.Serve(false, func(http.ResponseWriter, *http.Request) {}, nil); err != nil {
				t.Fatal(err)
			}
			c := dial(t, l)
			<-admitted // what arrives before, a deaf connection has heard
			if err := get(c, test.ok); (err == nil) != test.ok {
				t.Errorf("asked: %v, want an answer: %t", err, test.ok)
			}
			if open := l.Open.Load(); open != test.open || l.Accepted.Load() != 1 {
				t.Errorf("%d connections open and %d accepted, want %d and 1", open, l.Accepted.Load(), test.open)
			}
		})
	}
}

// A connection without a request holds a worker, so the next one waits for it.
func TestServeWorkers(t *testing.T) {
	l, err := Listen(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	l.ServeWorkers(1)
	first, second := dial(t, l), dial(t, l)
	if err := get(first, true); err != nil {
		t.Fatal(err)
	}
	if err := get(second, false); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("while the worker is held: %v, want no answer", err)
	}
	_ = first.Close()
	if err := get(dial(t, l), false); err == nil {
		t.Error("the third was answered before the second left")
	}
}
