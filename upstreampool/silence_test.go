package upstreampool

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
)

// A timeout of ours is no fault of the upstream. One of TCP is: nothing answered.
func TestWhoseTimeout(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		ours bool
	}{
		{"deadline of a request", context.DeadlineExceeded, true},
		{"read_timeout", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, true},
		{"TCP gave up", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}, false},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, false},
		{"end", io.EOF, false},
	} {
		if got := timedOut(test.err); got != test.ours {
			t.Errorf("%s: ours = %v, want %v", test.name, got, test.ours)
		}
	}
}

// reverse_proxy answers 504 to a request whose upstream went silent, and the error says
// which setting that was.
func TestSilenceErrors(t *testing.T) {
	cfg := connpool.Config{UnackedTimeout: 20 * time.Second, PingTimeout: 15 * time.Second}
	for reason, text := range map[connpool.CloseReason]string{
		connpool.CloseUnacked: "waiting for response: the upstream acknowledged nothing for 20s (unacked_timeout)",
		connpool.ClosePing:    "waiting for response: the upstream answered no PING for 15s (ping_timeout)",
		connpool.CloseSilent:  "waiting for response: the upstream answered nothing, not even in TCP",
	} {
		var err error = &silenceError{reason, cfg}
		timeout, ok := errors.AsType[net.Error](err)
		if err.Error() != text || !ok || !timeout.Timeout() {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

// The kernel's first probe comes after 15 s, however short keepalive_interval is: until
// then, a living connection is silent.
func TestIntervalOfProbes(t *testing.T) {
	for _, test := range []struct{ set, want time.Duration }{
		{0, 30 * time.Second},
		{5 * time.Second, 15 * time.Second},
		{time.Minute, time.Minute},
		{-1, 0},
	} {
		tr := newTransport(t, func(tr *Transport) {
			tr.KeepAlive = &reverseproxy.KeepAlive{ProbeInterval: caddy.Duration(test.set)}
		})
		if got := tr.core.cfg.ProbeInterval; got != test.want {
			t.Errorf("keepalive_interval %v: %v, want %v", test.set, got, test.want)
		}
	}
}

// What is done about silence has defaults; PINGs are off.
func TestSilenceDefaults(t *testing.T) {
	tr := newTransport(t, nil)
	cfg, h2 := tr.core.cfg, tr.core.h2Transport.HTTP2
	if cfg.UnackedTimeout != 20*time.Second || cfg.PingTimeout != 0 || h2 != nil && h2.SendPingTimeout != 0 {
		t.Errorf("unacked_timeout %v, ping_timeout %v, HTTP2 = %+v", cfg.UnackedTimeout, cfg.PingTimeout, h2)
	}
	tr = newTransport(t, func(tr *Transport) { tr.PingInterval = caddy.Duration(time.Minute) })
	if h2 = tr.core.h2Transport.HTTP2; h2 == nil || h2.SendPingTimeout != time.Minute || h2.PingTimeout != 15*time.Second {
		t.Errorf("HTTP2 = %+v", h2)
	}
}
