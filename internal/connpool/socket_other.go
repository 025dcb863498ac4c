//go:build !unix || nosocket

package connpool

import "net"

// LooksIntoSockets tells whether it can be seen that bytes have arrived which no
// goroutine has read yet.
const LooksIntoSockets = false

// A peeker is a socket, which cannot be looked into here.
type peeker struct{}

func (*peeker) init(net.Conn, func(), func()) {}

func (*peeker) ok() bool { return false }

func (*peeker) peek() (data, dead bool) { return false, false }

func (*peeker) read([]byte) (int, error) { panic("unreachable: there is no socket") }
