// Package freeport finds ports for the servers of tests and benchmarks.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

var (
	mu    sync.Mutex
	found = make(map[int]bool)
)

// Find returns a port of 127.0.0.1 that nothing listens on, over TCP or UDP, and
// never the same one twice. It is below those that systems give to clients, so
// that none of the many clients that run at the same time can take it before it is
// used.
func Find() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		if found[port] {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		_ = tcp.Close()
		if err != nil {
			continue
		}
		found[port] = true
		return port, udp.Close()
	}
	return 0, errors.New("finding a port: none is free for TCP and UDP")
}
