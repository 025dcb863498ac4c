package misdirected

// roomForProxying is how much of the stack a request takes in reverse_proxy, in bytes,
// counted from here.
const roomForProxying = 13 << 10

// growStack makes room on the stack for a request that is going to be proxied.
//
// In HTTP/2 and HTTP/3 each request has a goroutine of its own, which begins with a
// small stack. Reverse_proxy, behind the routes of a Caddyfile, takes more than 16 KiB.
// A stack grows by doubling, and each time all that lies on it is copied, frame by frame.
// Here little lies on it yet. In the end the stack is as large as it would be anyway.
// What that saves is measured by `go -C bench run . throughput`.
//
// The frame is reserved on entry, whether it is filled or not, and to fill it would cost
// as much again.
//
//go:noinline
func growStack(fill bool) {
	if fill {
		var frame [roomForProxying]byte
		touch(&frame)
	}
}

//go:noinline
func touch(frame *[roomForProxying]byte) { frame[0] = 1 }
