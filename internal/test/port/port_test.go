package port

import (
	"net"
	"testing"
)

// The ports found differ, can be listened on, and lie in blocks that no other
// process can claim.
func TestFree(t *testing.T) {
	found := make(map[int]bool)
	for range 3 * blockSize {
		port, err := Free()
		if err != nil {
			t.Fatal(err)
		}
		if found[port] {
			t.Fatalf("port %d twice", port)
		}
		found[port] = true
		ln, err := net.Listen("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if ln, err := net.Listen("tcp", address(port-port%blockSize)); err == nil {
			ln.Close()
			t.Fatalf("nobody has the block of port %d", port)
		}
	}
}
