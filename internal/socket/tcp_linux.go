package socket

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TCP is the socket of a TCP connection. The zero value is none.
type TCP struct{ raw syscall.RawConn }

// Of returns the socket of c, if it is a TCP connection or something on top of one
// that gives it away.
func Of(c net.Conn) TCP {
	inner, ok := c.(syscall.Conn)
	if !ok || c.RemoteAddr() == nil || c.RemoteAddr().Network() != "tcp" {
		return TCP{}
	}
	raw, err := inner.SyscallConn()
	if err != nil {
		return TCP{}
	}
	return TCP{raw}
}

// Exists tells whether there is one.
func (t TCP) Exists() bool { return t.raw != nil }

// Info looks into the socket. It reports false where there is none, or none any
// more.
func (t TCP) Info() (Info, bool) {
	if t.raw == nil {
		return Info{}, false
	}
	var info *unix.TCPInfo
	var err error
	if cerr := t.raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); cerr != nil || err != nil {
		return Info{}, false
	}
	return Info{
		Unacked:  int(info.Unacked),
		Acked:    info.Bytes_acked,
		Unsent:   int(info.Notsent_bytes),
		Window:   int(info.Snd_wnd),
		Backoff:  int(info.Backoff),
		Probes:   int(info.Probes),
		LastAck:  time.Duration(info.Last_ack_recv) * time.Millisecond,
		LastSent: time.Duration(info.Last_data_sent) * time.Millisecond,
	}, true
}
