package connpool

import (
	"net"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/wire"
)

// A netConn is a connection from below: what net/http, or TLS, reads from and writes to.
// Package wire has what it sees there, and its conn what follows.
type netConn struct {
	wire.Conn
	above *conn
}

// wrap makes nc the socket of c.
func (c *conn) wrap(nc net.Conn) {
	c.net.Wrap(nc, wire.Options{
		TLS:         c.pool.opt.TLS,
		ReadTimeout: c.pool.cfg.Idle.ReadTimeout,
		OutOfData:   func() { c.net.Waits(); c.outOfData() },
	})
}

func (n *netConn) Read(p []byte) (int, error) {
	n.Enter()
	watched := n.above.readEntered()
	if watched && !n.Watchable() {
		n.above.outOfData()
		watched = false
	}
	count, took, err := n.Fetch(p, watched)
	if took >= 0 {
		n.above.learner.Responded(time.Now(), took)
	}
	if err != nil {
		n.above.ends(time.Now(), err)
	}
	return count, err
}

// Close closes the socket and has its conn clean up. It may be called with
// locks of net/http held, so that is done on a goroutine of its own.
func (n *netConn) Close() error {
	c := n.above
	c.ends(time.Now(), nil) // before anybody can see that it is shut
	if !n.Shut() {
		return net.ErrClosed
	}
	if c.carries() && (c.h2 || n.TLS() || !n.Responded()) { // perhaps a request was lost
		n.KeepSilence(n.Silence(time.Now(), n.TakenAt()))
	}
	err := n.Conn.Conn.Close()
	c.socketClosed()
	return err
}

// ends records the first sign of the end.
func (c *conn) ends(at time.Time, err error) {
	if c.net.Ending() != nil {
		return
	}
	inFlight := 0
	if !c.is(dialing) && c.h2 {
		inFlight = c.cc.InFlight()
	}
	c.net.End(at, err, inFlight)
}

// endedBySilence tells whether the connection ended by silence, and which: nobody
// answered our kernel, or a PING of net/http's.
func (c *conn) endedBySilence() (CloseReason, bool) {
	switch end := c.net.Ending(); {
	case end == nil:
	case end.GivenUp():
		return CloseSilent, true
	case c.h2 && end.LostPing(c.pool.cfg.PingTimeout):
		return ClosePing, true
	}
	return "", false
}

// readEntered runs whenever net/http is about to wait for data. It tells whether
// that is to be watched: outOfData runs when the socket has none.
//
// An HTTP/1 connection is available again exactly then. The response was read to
// its end and everything above the socket is out of data, so surplus bytes of the
// upstream, which would be taken for the next answer (RFC 9112 section 9.2), can
// only be in the socket itself. It is tempting to use the state hook of
// [http.ClientConn] instead, but it fires when the response is complete, before
// anyone has looked for surplus bytes.
//
// SETTINGS of an HTTP/2 connection (RFC 9113 section 3.4) are acknowledged before the next
// Read. An idle one that has become unavailable has received a GOAWAY, or SETTINGS that
// allow no stream.
func (c *conn) readEntered() (watch bool) {
	switch {
	case c.is(dialing):
	case !c.h2:
		s := c.at()
		return s == idle || s == fresh || c.complete()
	case !c.streams.Seen() && c.net.SettingsRead():
		c.streams.NoteSettings()
		c.serveWaiters()
		c.askWhyNoStreams() // a GOAWAY may have come with them
	default:
		c.askWhyNoStreams()
	}
	return false
}

// askWhyNoStreams closes an idle HTTP/2 connection that has received a GOAWAY.
func (c *conn) askWhyNoStreams() {
	if !c.idles() && !c.is(sensor) {
		return
	}
	if _, limit := c.streams.Left(); limit == 0 {
		go c.pool.streamsRefused(c, time.Now())
	}
}

// outOfData runs when an HTTP/1 connection that is idle, or about to be, waits for
// data. It runs on the goroutine that reads.
func (c *conn) outOfData() {
	switch {
	case c.is(busy):
		c.pool.returned(c, c.net.WaitedAt())
	case c.idles():
		c.pool.trust(c)
	}
}

// socketClosed runs when the socket is closed, by us or by net/http. A dial that is
// given up, or has been, tells of itself.
func (c *conn) socketClosed() {
	if s := c.at(); s != dialing && s != closed {
		go c.pool.removed(c)
	}
}
