package stack

import (
	"testing"
	"unsafe"

	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// A stack that was grown early does not grow again for as much as a proxied request
// takes, and one that was not does.
func TestGrowForProxying(t *testing.T) {
	if race.Enabled || testing.CoverMode() != "" {
		t.Skip("frames are larger than usual")
	}
	for _, test := range []struct {
		name  string
		early func()
		moves bool
	}{
		{"grown early", GrowForProxying, false},
		{"as it is", func() {}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			moved := make(chan bool)
			go func() { moved <- moves(test.early, func() { take(proxying/takes - 2) }) }()
			if <-moved != test.moves {
				t.Errorf("it grows later on: %v, want %v", !test.moves, test.moves)
			}
		})
	}
}

// To grow the stack costs next to nothing where it is large already, as on the
// connections of HTTP/1.
func BenchmarkGrowForProxying(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		GrowForProxying()
	}
}

// moves tells whether the stack moves while f runs, after early.
//
//go:noinline
func moves(early, f func()) bool {
	var here byte
	early()
	before := uintptr(unsafe.Pointer(&here))
	f()
	return uintptr(unsafe.Pointer(&here)) != before
}

// takes is what a call of take has on the stack at least, in bytes.
const takes = 1 << 10

//go:noinline
func take(calls int) byte {
	var frame [takes]byte
	frame[calls] = 1
	if calls > 0 {
		return frame[calls] + take(calls-1)
	}
	return frame[0]
}
