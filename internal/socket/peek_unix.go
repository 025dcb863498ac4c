//go:build unix && !aix && !nosocket

package socket

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// Looks tells whether it can be seen that bytes have arrived which no
// goroutine has read yet.
const Looks = true

// A Peeker is the socket below a net.Conn, to look into it and to know when data
// leaves it. Its functions are kept, so as not to allocate.
type Peeker struct {
	conn  net.Conn
	raw   syscall.RawConn // nil where there is none
	plain bool            // conn has no Read of its own

	mu   sync.Mutex // the pool may look while whoever reads does
	buf  [1]byte
	n    int
	err  error
	look func(fd uintptr)

	// Owned by whoever reads.
	first [1]byte // seen before conn reads it, unless plain
	into  []byte
	flags int
	count int
	errno error
	try   func(fd uintptr) bool
}

// Init makes s the socket of c, if it has one. before runs before each attempt at
// reading, and nothing after one that found nothing and is going to wait.
func (s *Peeker) Init(c net.Conn, before, nothing func()) {
	s.conn = c
	if sc, ok := c.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn()
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		s.plain = true
	}
	s.look = func(fd uintptr) {
		for s.err = syscall.EINTR; s.err == syscall.EINTR; {
			s.n, _, s.err = syscall.Recvfrom(int(fd), s.buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		}
	}
	s.try = func(fd uintptr) bool {
		before()
		for s.errno = syscall.EINTR; s.errno == syscall.EINTR; {
			s.count, _, s.errno = syscall.Recvfrom(int(fd), s.into, s.flags)
		}
		if s.errno == syscall.EAGAIN {
			nothing()
			return false
		}
		return true
	}
}

// OK tells whether there is a socket to look into.
func (s *Peeker) OK() bool { return s.raw != nil }

// Peek tells whether the socket has data to read, or is closed.
func (s *Peeker) Peek() (data, dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.raw.Control(s.look); err != nil {
		return false, true
	}
	switch s.err {
	case nil:
		return s.n > 0, s.n == 0
	case syscall.EAGAIN:
		return false, false
	}
	return false, true
}

// Read reads as conn does: itself, or after it has seen that there is something.
func (s *Peeker) Read(p []byte) (int, error) {
	s.into, s.flags = p, 0
	if !s.plain {
		s.into, s.flags = s.first[:], syscall.MSG_PEEK
	}
	err := s.raw.Read(s.try)
	s.into = nil
	switch {
	case err != nil:
		return 0, err
	case s.errno != nil: // a socket tells it only once
		return 0, os.NewSyscallError("read", s.errno)
	case !s.plain:
		return s.conn.Read(p)
	case s.count == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return s.count, nil
}
