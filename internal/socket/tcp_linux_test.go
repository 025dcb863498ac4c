package socket

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-connreuse/connreuse/internal/test/netns"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// pair returns the two ends of a connection.
func pair(t *testing.T, n *netns.Network) (client, server net.Conn) {
	t.Helper()
	var err error
	n.Run(func() {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return
		}
		defer l.Close()
		if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
			return
		}
		server, err = l.Accept()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	return client, server
}

// A request on a path that drops everything is told from one to an upstream that
// takes its time.
//
// Checklist: P29.
func TestDroppedPackets(t *testing.T) {
	n := netns.New(t)
	client, _ := pair(t, n)
	send := func() {
		t.Helper()
		if _, err := client.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	var watch Watch
	var sent time.Time
	look := func() Info {
		t.Helper()
		info, ok := Of(client).Info()
		if !ok {
			t.Fatal("nothing is known of a TCP socket")
		}
		return info
	}
	send()
	poll.Until(t, "a slow upstream has acknowledged the request", func() bool {
		info := look()
		return info.Unacked == 0 && info.Alive(15*time.Second)
	})
	n.Drop()
	silence := func() Silence { return watch.Look(time.Now(), look(), sent) }
	sent = time.Now()
	send()
	poll.Until(t, "the request is lost", func() bool { return silence().Lost() })
	if info := look(); info.Unacked == 0 || info.Backoff == 0 || info.Alive(15*time.Second) {
		t.Errorf("of a lost request: %+v", info)
	}
	poll.Until(t, "the path is silent", func() bool { return silence().For > 2*time.Second })
	n.Pass()
	poll.Until(t, "it is not once packets pass again", func() bool { return silence() == Silence{} })
}

// A peer that reads nothing closes its window. It answers probes, so it is there.
func TestClosedWindow(t *testing.T) {
	n := netns.New(t)
	client, _ := pair(t, n)
	_ = client.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	if _, err := io.CopyN(client, endless{}, 64<<20); err == nil {
		t.Fatal("the window took everything")
	}
	var watch Watch
	start := time.Now()
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		info, ok := Of(client).Info()
		if s := watch.Look(time.Now(), info, start); !ok || s.Lost() {
			t.Fatalf("of a peer that reads nothing: %+v, %v, %v", info, ok, s)
		}
	}
}

// While the queue of a listener is full, Linux does not acknowledge what it gets on new
// connections. That is no silence of the path.
func TestFullQueueOfListener(t *testing.T) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	const queue = 3
	err = errors.Join(
		unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
		unix.SetsockoptInt(l, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 60), // they queue once they send
		unix.Listen(l, queue),
	)
	if err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(at.(*unix.SockaddrInet4).Port))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	send := func(c net.Conn) {
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	late := dial()
	for range queue + 1 {
		send(dial())
	}
	var watch Watch
	sent := time.Now()
	send(late)
	var info Info
	poll.Until(t, "the request is sent again for 2 s", func() bool {
		info, _ = Of(late).Info()
		if s := watch.Look(time.Now(), info, sent); s.Overdue() || s.Lost() {
			t.Fatalf("%+v: %+v", info, s)
		}
		return info.Backoff > 1 && time.Since(sent) > 2*time.Second
	})
	if info.Unacked == 0 || info.Acked != handshakeAcked {
		t.Errorf("%+v", info)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// Nothing is known of what is no TCP socket, nor of one that is closed.
func TestNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	c, err := net.Dial("tcp", closed.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	of := Of(c)
	_ = c.Close()
	for name, socket := range map[string]TCP{"pipe": Of(a), "unix": Of(u), "closed": of, "zero": {}} {
		if info, ok := socket.Info(); ok {
			t.Errorf("%s: %+v", name, info)
		}
	}
}
