// Package port finds ports for the servers of tests and benchmarks.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports come in blocks, which begin at multiples of their size. They are below
// those that systems give to clients, so that none of the many clients that run
// at the same time can take one before it is used.
const (
	lowest, highest = 10_000, 30_000
	blockSize       = 100
)

var (
	mu         sync.Mutex
	claims     []net.Listener // on the first ports of our blocks
	next, last int            // what is left of the last one
)

// Free returns a port of 127.0.0.1 that nothing listens on, over TCP or UDP, and
// never the same one twice. Tests of several packages run at the same time, in a
// process each: a process that listens on the first port of a block has the
// others to itself, until it ends.
func Free() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 10 * blockSize {
		if next == last && !claim() {
			continue
		}
		port := next
		next++
		if unused(port) {
			return port, nil
		}
	}
	return 0, errors.New("finding a port: none is free for TCP and UDP")
}

// claim takes a block at random, and tells whether nobody else has it.
func claim() bool {
	first := lowest + blockSize*rand.IntN((highest-lowest)/blockSize)
	ln, err := net.Listen("tcp", address(first))
	if err != nil {
		return false
	}
	claims = append(claims, ln)
	next, last = first+1, first+blockSize
	return true
}

// unused tells whether nothing listens on port.
func unused(port int) bool {
	tcp, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", address(port))
	if err != nil {
		return false
	}
	_ = udp.Close()
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
