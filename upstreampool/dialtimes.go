package upstreampool

import (
	"crypto/tls"
	"net/http/httptrace"
	"time"
)

// dialTimes are how long the parts of a dial took.
type dialTimes struct {
	socket    time.Duration // name resolution and TCP, of the forward proxy if there is one
	handshake time.Duration // TLS with the upstream; 0: none
	resumed   bool          // by a session of an earlier connection
}

// secured notes the end of a handshake.
func (t *dialTimes) secured(began time.Time, s tls.ConnectionState) {
	t.handshake, t.resumed = max(time.Since(began), 1), s.DidResume
}

// traceHandshake notes the handshake that net/http does, in the tunnel of a forward
// proxy. To net/http that with a proxy is one as well, but then the other follows.
func (t *dialTimes) traceHandshake() *httptrace.ClientTrace {
	var began time.Time
	return &httptrace.ClientTrace{
		TLSHandshakeStart: func() { began = time.Now() },
		TLSHandshakeDone: func(s tls.ConnectionState, err error) {
			if err == nil {
				t.secured(began, s)
			}
		},
	}
}

// observe adds the times to the metrics of an upstream.
func (t *dialTimes) observe(upstream string) {
	collectors.socketOpen.WithLabelValues(upstream).Observe(t.socket.Seconds())
	if t.handshake == 0 {
		return
	}
	session := "full"
	if t.resumed {
		session = "resumed"
	}
	collectors.handshake.WithLabelValues(upstream, session).Observe(t.handshake.Seconds())
}
