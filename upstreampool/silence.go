package upstreampool

import (
	"errors"
	"fmt"
	"net"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/neterr"
)

// timedOut tells whether err is a timeout of ours. The kernel's is none: it says that
// the upstream answers nothing.
func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout() && !neterr.IsGivenUp(err)
}

// A silenceError tells why the connection of a request was given up.
type silenceError struct {
	reason connpool.CloseReason
	cfg    connpool.Config
}

func (e *silenceError) Error() string {
	switch e.reason {
	case connpool.CloseUnacked:
		return fmt.Sprintf("waiting for response: the upstream acknowledged nothing for %s (unacked_timeout)", e.cfg.UnackedTimeout)
	case connpool.ClosePing:
		return fmt.Sprintf("waiting for response: the upstream answered no PING for %s (ping_timeout)", e.cfg.PingTimeout)
	}
	return "waiting for response: the upstream answered nothing, not even in TCP"
}

// Timeout makes reverse_proxy answer 504 (Gateway Timeout).
func (*silenceError) Timeout() bool { return true }

// Temporary is part of [net.Error].
func (*silenceError) Temporary() bool { return false }
