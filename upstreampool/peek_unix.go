//go:build unix

package upstreampool

import (
	"os"
	"sync"
	"syscall"
)

const canPeek = true

// peeked is the state of looking into a socket, kept to look without allocating.
type peeked struct {
	mu  sync.Mutex // the pool may look while whoever reads does
	buf [1]byte
	n   int
	err error

	look   func(fd uintptr)
	some   func(fd uintptr) bool
	broken error // what some has seen
}

// init prepares for looking. nothing runs whenever await looked and there was
// nothing.
func (p *peeked) init(nothing func()) {
	p.look = func(fd uintptr) {
		for p.err = syscall.EINTR; p.err == syscall.EINTR; {
			p.n, _, p.err = syscall.Recvfrom(int(fd), p.buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		}
	}
	p.some = func(fd uintptr) bool {
		p.mu.Lock()
		p.look(fd)
		err := p.err
		p.mu.Unlock()
		if err == syscall.EAGAIN {
			nothing()
			return false
		}
		p.broken = err
		return true
	}
}

// peek tells whether the socket has data to read, or is closed.
func (p *peeked) peek(raw syscall.RawConn) (data, dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := raw.Control(p.look); err != nil {
		return false, true
	}
	switch p.err {
	case nil:
		return p.n > 0, p.n == 0
	case syscall.EAGAIN:
		return false, false
	}
	return false, true
}

// await waits until the socket has data to read, or is closed. An error of the
// connection, which it tells only once, is returned apart from one of waiting.
func (p *peeked) await(raw syscall.RawConn) (broken, err error) {
	if err := raw.Read(p.some); err != nil {
		return nil, err
	}
	return os.NewSyscallError("read", p.broken), nil
}
