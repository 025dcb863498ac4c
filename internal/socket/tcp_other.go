//go:build !linux

package socket

import "net"

// TCP is the socket of a TCP connection, which cannot be looked into here.
type TCP struct{}

// Of returns the zero value.
func Of(net.Conn) TCP { return TCP{} }

// Exists reports false.
func (TCP) Exists() bool { return false }

// Info reports false: nothing is known.
func (TCP) Info() (Info, bool) { return Info{}, false }
