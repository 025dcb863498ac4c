//go:build unix

package upstreampool

import (
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
}

func (p *peeked) init() {
	p.look = func(fd uintptr) {
		p.n, _, p.err = syscall.Recvfrom(int(fd), p.buf[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
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
