//go:build !unix

package upstreampool

import "syscall"

// peeked is empty where a socket cannot be looked into.
type peeked struct{}

func (*peeked) init() {}

func (*peeked) peek(syscall.RawConn) (data, dead bool) { return false, false }

func (*peeked) await(syscall.RawConn) error { return nil }
