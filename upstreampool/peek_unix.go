//go:build unix

package upstreampool

import (
	"os"
	"sync"
	"syscall"
)

// peeked is the state of looking into a socket, kept to look without allocating.
type peeked struct {
	mu   sync.Mutex // the pool may look while whoever reads does
	buf  [1]byte
	n    int
	err  error
	look func(fd uintptr)

	some   func(fd uintptr) bool
	broken error // what some has seen
}

func (p *peeked) init() {
	p.look = func(fd uintptr) {
		p.n, _, p.err = syscall.Recvfrom(int(fd), p.buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	p.some = func(fd uintptr) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for p.err = syscall.EINTR; p.err == syscall.EINTR; {
			p.look(fd)
		}
		p.broken = p.err
		return p.err != syscall.EAGAIN
	}
}

// await waits until the socket has data to read, or is closed. An error of the
// connection is returned, as it is told only once.
func (p *peeked) await(raw syscall.RawConn) error {
	if err := raw.Read(p.some); err != nil {
		return err
	}
	return os.NewSyscallError("read", p.broken)
}

// peek tells whether the socket has data to read, or is closed.
func (p *peeked) peek(raw syscall.RawConn) (data, dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.err = 0, nil
	if err := raw.Control(p.look); err != nil {
		return false, true
	}
	switch p.err {
	case nil:
		return p.n > 0, p.n == 0
	case syscall.EAGAIN, syscall.EINTR:
		return false, false
	}
	return false, true
}
