//go:build !unix || nosocket

package upstreampool

import "net"

// A socket cannot be looked into here.
type socket struct{}

func (*socket) init(net.Conn, func(), func()) {}

func (*socket) ok() bool { return false }

func (*socket) peek() (data, dead bool) { return false, false }

func (*socket) read([]byte) (int, error) { panic("unreachable: there is no socket") }
