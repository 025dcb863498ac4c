package wire

import (
	"time"

	"github.com/caddy-connreuse/connreuse/internal/socket"
)

// A path that drops everything looks like an upstream that has nothing to say. The
// kernel knows more: whether what was sent is acknowledged, and probes are answered.

// HasTCP tells whether the kernel can be asked what it knows of the other end.
func (n *Conn) HasTCP() bool { return n.tcp.Exists() }

// PathAlive tells whether the path to the upstream is alive, as far as that can be told,
// where idle connections are probed at an interval. It is where the kernel does not tell,
// as over Unix sockets.
func (n *Conn) PathAlive(interval time.Duration) bool {
	info, ok := n.tcp.Info()
	return !ok || info.Alive(interval)
}

// Info returns what the kernel knows of the other end, if it tells.
func (n *Conn) Info() (socket.Info, bool) { return n.tcp.Info() }

// Look asks the kernel what the upstream has to say of what it was sent, the last request
// at the time given. Where the kernel does not tell, ok is false, and there is no silence.
func (n *Conn) Look(now, sent time.Time) (info socket.Info, silence socket.Silence, ok bool) {
	if info, ok = n.tcp.Info(); ok {
		silence = n.watch.Look(now, info, sent)
	}
	return info, silence, ok
}

// Listen looks, and notes whether the upstream has all that was sent.
func (n *Conn) Listen() socket.Silence {
	writes := n.writes.Load()
	info, silence, ok := n.Look(time.Now(), n.TakenAt())
	if ok && info.Unacked == 0 && info.Unsent == 0 {
		n.settled.Store(writes)
	}
	return silence
}

// Settled tells whether nothing was sent since Listen found that the upstream had all.
func (n *Conn) Settled() bool { return n.writes.Load() == n.settled.Load() }

// QuietFor returns for how long nothing has been read, since the last Take at most.
func (n *Conn) QuietFor(now time.Time) time.Duration {
	return time.Duration(sinceStart(now) - max(n.readAt.Load(), n.taken.Load()))
}

// Silence returns what Look does, or what was kept as the connection was closed.
func (n *Conn) Silence(now, sent time.Time) socket.Silence {
	if s := n.silence.Load(); s != nil {
		return *s
	}
	_, silence, _ := n.Look(now, sent)
	return silence
}

// KeepSilence has Silence return s from now on. There is nobody to ask once the socket is
// closed.
func (n *Conn) KeepSilence(s socket.Silence) { n.silence.Store(&s) }
