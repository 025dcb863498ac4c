package connpool

import (
	"net"
	"runtime"
	"testing"
)

// Whoever sees that a connection is shut can ask how it ended: a dial that is over just
// then does so.
func TestShutConnectionHasAnEnd(t *testing.T) {
	p := NewGroup(Config{}).NewPool(Options{})
	for range 5000 {
		socket, other := net.Pipe()
		c := &conn{pool: p}
		c.net.above = c
		c.wrap(socket)
		go c.net.Close()
		for !c.net.IsShut() {
			runtime.Gosched()
		}
		if c.net.Ending() == nil {
			t.Fatal("a connection is shut and has no end")
		}
		_ = other.Close()
	}
}
