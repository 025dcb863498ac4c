//go:build !unix || aix || nosocket

package socket

import "net"

// Looks tells whether it can be seen that bytes have arrived which no
// goroutine has read yet.
const Looks = false

// A Peeker is a socket, which cannot be looked into here.
type Peeker struct{}

func (*Peeker) Init(net.Conn, func(), func()) {}

func (*Peeker) OK() bool { return false }

func (*Peeker) Peek() (data, dead bool) { return false, false }

func (*Peeker) Read([]byte) (int, error) { panic("unreachable: there is no socket") }
