// Package stack makes room on the stack of a goroutine before it is needed.
package stack

// proxying is how much of the stack a request takes in reverse_proxy, in bytes, counted
// from the first handlers of a site.
const proxying = 13 << 10

// GrowForProxying makes room for a request that is going to be proxied.
//
// In HTTP/2 and HTTP/3 each request has a goroutine of its own, which begins with a
// small stack. Reverse_proxy, behind the routes of a Caddyfile, takes more than 16 KiB.
// A stack grows by doubling, and each time all that lies on it is copied, frame by frame.
// Here little lies on it yet. In the end the stack is as large as it would be anyway.
// What that saves is measured by `go -C bench run . throughput`.
//
// It is for early handlers.
func GrowForProxying() { grow[[proxying]byte](false) }

// GrowForLock makes room for what runs below a lock, up to 1.5 KiB. Whoever is the first
// on its goroutine to come that deep would have others wait while its stack grows.
func GrowForLock() { grow[[3 << 9]byte](false) }

// grow reserves its frame on entry, whether that is filled or not. To fill it would cost
// as much again.
//
//go:noinline
func grow[F any](fill bool) {
	if fill {
		var frame F
		touch(&frame)
	}
}

//go:noinline
func touch[F any](*F) {}
