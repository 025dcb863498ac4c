//go:build !unix

package upstreampool

import "syscall"

const canPeek = false

// peeked is not used where a socket cannot be looked into.
type peeked struct{}

func (*peeked) init(func()) {}

func (*peeked) peek(syscall.RawConn) (data, dead bool) { return false, false }

func (*peeked) await(syscall.RawConn) (broken, err error) { return nil, nil }
