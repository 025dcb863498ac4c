package upstreampool

import (
	"net/http"
	"testing"
	"unsafe"

	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// A request of an HTTP/2 or HTTP/3 client has a goroutine of its own, whose stack is as
// deep in reverse_proxy as callersDepth. In the 16 KiB that it has by then, there is
// room for transport http, and for ours: to grow the stack costs more than the pool.
func TestStackNeedNotGrow(t *testing.T) {
	if race.Enabled || testing.CoverMode() != "" {
		t.Skip("frames are larger than usual")
	}
	if !growsStack(takeStack) {
		t.Skip("goroutines begin with a large stack")
	}
	for _, protocol := range []string{"h1", "h2"} {
		get := getter(t, protocol)
		theirs, ours := transports(t, protocol)
		for name, tr := range map[string]http.RoundTripper{"transport http": theirs, "upstreampool": ours} {
			for i := range 10 {
				var err error
				grew := growsStack(func() { err = get(tr) })
				if err != nil {
					t.Fatal(err)
				}
				if grew && i > 0 { // there is a connection
					t.Errorf("%s, %s: the stack grew for request %d", protocol, name, i+1)
				}
				awaitReturn(t, tr)
			}
		}
	}
}

const callersDepth = 10 << 10

// growsStack tells whether the stack of a new goroutine grows while f runs, which is
// called with callersDepth of it in use.
func growsStack(f func()) bool {
	grew := make(chan bool)
	go func() { grew <- movesStack(f) }()
	return <-grew
}

//go:noinline
func movesStack(f func()) bool {
	var frame [callersDepth]byte
	before := uintptr(unsafe.Pointer(&frame))
	f()
	return uintptr(unsafe.Pointer(&frame)) != before
}

//go:noinline
func takeStack() {
	var frame [callersDepth]byte
	touch(&frame)
}

//go:noinline
func touch(frame *[callersDepth]byte) { frame[0] = 1 }
