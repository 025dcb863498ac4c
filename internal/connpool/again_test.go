//go:build unix && !nosocket

package connpool

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A pipeSocket is a pipe that can be looked into, as a socket can, and looks dead as soon
// as it is told to.
type pipeSocket struct {
	net.Conn
	empty, full int // file descriptors that have nothing to read, and something
	dead        *atomic.Bool
	first       []byte // was read before anybody asked for it
	err         error
	late        atomic.Int64 // for how long, in nanoseconds, nothing runs before the next look for data
}

func newPipeSocket(t *testing.T, c net.Conn, dead *atomic.Bool) (*pipeSocket, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _, _ = syscall.Close(pair[0]), syscall.Close(pair[1]) })
	if _, err := syscall.Write(pair[0], []byte("x")); err != nil {
		return nil, err
	}
	s := &pipeSocket{Conn: c, empty: pair[0], full: pair[1], dead: dead}
	return s, syscall.SetNonblock(s.empty, true)
}

func (s *pipeSocket) SyscallConn() (syscall.RawConn, error) { return pipeRaw{s}, nil }

func (s *pipeSocket) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if len(s.first) == 0 {
		return s.Conn.Read(p)
	}
	n := copy(p, s.first)
	s.first = s.first[n:]
	return n, nil
}

type pipeRaw struct{ s *pipeSocket }

func (r pipeRaw) Control(look func(fd uintptr)) error {
	if r.s.dead.Load() {
		return errors.New("dead")
	}
	look(uintptr(r.s.empty))
	return nil
}

func (r pipeRaw) Read(try func(fd uintptr) bool) error {
	time.Sleep(time.Duration(r.s.late.Swap(0)))
	try(uintptr(r.s.empty))
	first := make([]byte, 1)
	_, r.s.err = r.s.Conn.Read(first)
	r.s.first = first
	try(uintptr(r.s.full))
	return nil
}

func (r pipeRaw) Write(func(fd uintptr) bool) error { return errors.ErrUnsupported }

// A request may be given a connection that turns out to be dead. It asks again later than
// it came, and so it sees that the dial for it has taken long by then.
func TestAskingAgain(t *testing.T) {
	const waits = 3 * time.Second
	var first, others atomic.Bool
	inBubble(t, func(_ *Config, b *bench) {
		b.connect = func() (net.Conn, error) {
			client, server := net.Pipe()
			go answer(1, server)
			switch b.dials.Add(1) {
			case 1:
				return newPipeSocket(t, client, &first)
			case 2:
				time.Sleep(10 * waits)
			}
			return newPipeSocket(t, client, &others)
		}
	}, func(t *testing.T, b *bench) {
		l := mustAcquire(t, b.Pool, anything)
		waiting := make(chan Lease)
		go func() { waiting <- mustAcquire(t, b.Pool, anything) }()
		time.Sleep(waits)
		first.Store(true)
		l.Unused()
		next := <-waiting
		if next.Reused || next.Waited != waits || next.Connect() != 0 {
			t.Errorf("reused: %v, waited for %v, of which the dial took %v; want a new one after %v", next.Reused, next.Waited, next.Connect(), waits)
		}
		next.Unused()
		time.Sleep(10 * waits)
	})
}

// The process stands still after net/http has begun to wait for data, and before the pool
// knows: the connection is as old as it is.
//
// Checklist: P15.
func TestStandingStillBeforeReturned(t *testing.T) {
	inBubble(t, func(cfg *Config, b *bench) {
		cfg.AcquireTimeout = 5 * time.Minute
		b.connect = func() (net.Conn, error) {
			client, server := net.Pipe()
			go answer(b.dials.Add(1), server)
			s, err := newPipeSocket(t, client, new(atomic.Bool))
			if b.dials.Load() == 1 {
				s.late.Store(int64(2 * time.Minute))
			}
			return s, err
		}
	}, func(t *testing.T, b *bench) {
		if got := mustGet(t, b.Pool); got != "1" {
			t.Fatalf("connection %s", got)
		}
		if got := mustGet(t, b.Pool); got != "2" {
			t.Errorf("connection %s after two minutes, want a new one", got)
		}
	})
}
