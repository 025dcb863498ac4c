//go:build !unix || nosocket

package connpool

import "net"

// LooksIntoSockets tells whether it can be seen that bytes have arrived which no
// goroutine has read yet.
const LooksIntoSockets = false

// A socket cannot be looked into here.
type socket struct{}

func (*socket) init(net.Conn, func(), func()) {}

func (*socket) ok() bool { return false }

func (*socket) peek() (data, dead bool) { return false, false }

func (*socket) read([]byte) (int, error) { panic("unreachable: there is no socket") }
