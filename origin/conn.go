package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// tlsConn is what a listener returns that is a TLS one: a *tls.Conn, or a
// wrapper around it that hides neither of these.
type tlsConn interface {
	net.Conn
	ConnectionState() tls.ConnectionState
	HandshakeContext(context.Context) error
}

// A conn is a server's end of a TLS connection. On HTTP/2 it writes ORIGIN frames
// directly behind the first SETTINGS frame.
//
// Since net/http does not see that this is a TLS connection, conn does what
// net/http does for one in front of the first byte: handshake, with its own
// timeouts, log entry and answer to plain HTTP; and it holds the client to the
// protocol that ALPN selected (RFC 7301 section 3.2), where net/http goes by
// what the client sends.
type conn struct {
	tlsConn
	server server

	once  sync.Once    // for the handshake
	phase atomic.Int32 // see [phase]
	// opening is how much of the HTTP/2 preface came. There is one reader at a time.
	opening int

	// plain: there is nothing to add to what is written any more.
	plain  atomic.Bool
	mu     sync.Mutex // guards the rest while not plain
	header []byte     // of the first frame, as far as it was written
	rest   int        // of its payload, once the header is complete
}

// A phase is how far a connection is on the reading side.
type phase int32

const (
	handshaking   phase = iota // no byte was read
	expectPreface              // ALPN selected HTTP/2, whose preface must come first
	expectOther                // it selected another protocol, which is anything else
	settled                    // what came is of that protocol
	dead                       // the client gets nothing any more
)

func (c *conn) in(p phase) bool { return phase(c.phase.Load()) == p }

func (c *conn) enter(p phase) { c.phase.Store(int32(p)) }

// A server is what a conn needs of the server it belongs to.
type server interface {
	// timeouts returns the limit of a TLS handshake and of the wait for an
	// HTTP/1 header behind it; 0 is none.
	timeouts() (handshake, header time.Duration)
	// frames returns the ORIGIN frames for a new connection.
	frames(serverName string, local net.Addr) frames
	// sent is told once frames are written.
	sent(frames)
	// logf logs as net/http does.
	logf(format string, args ...any)
}

// prefaceTimeout is how long x/net's HTTP/2 server waits for the preface.
const prefaceTimeout = 10 * time.Second

// errProtocol: what the client sends is not what ALPN selected.
var errProtocol = errors.New("the client does not speak the protocol that ALPN selected")

// Read implements net.Conn. The first call performs the TLS handshake. Where the
// connection is dead, it ends without a word: any other error net/http would answer
// with a 400.
func (c *conn) Read(p []byte) (int, error) {
	if c.in(settled) {
		return c.tlsConn.Read(p)
	}
	c.once.Do(c.handshake)
	if c.in(dead) {
		return 0, io.EOF
	}
	n, err := c.tlsConn.Read(p)
	if !c.follow(p[:n]) {
		c.server.logf("http: closing connection from %s: %v", c.RemoteAddr(), errProtocol)
		c.Close()
		c.enter(dead)
		return 0, io.EOF
	}
	return n, err
}

// follow looks at the first bytes from the client, as they come, and returns whether
// they can be of the protocol that ALPN selected.
func (c *conn) follow(p []byte) bool {
	http2Selected := c.in(expectPreface)
	for _, b := range p {
		if b != http2.ClientPreface[c.opening] {
			if !http2Selected {
				c.enter(settled)
			}
			return !http2Selected
		}
		if c.opening++; c.opening == len(http2.ClientPreface) {
			if http2Selected {
				c.enter(settled)
			}
			return http2Selected
		}
	}
	return true
}

// handshake is what net/http's conn.serve does with a *tls.Conn.
func (c *conn) handshake() {
	handshakeTimeout, headerTimeout := c.server.timeouts()
	if handshakeTimeout > 0 {
		deadline := time.Now().Add(handshakeTimeout)
		_ = c.SetReadDeadline(deadline)
		_ = c.SetWriteDeadline(deadline)
	}
	if err := c.HandshakeContext(context.Background()); err != nil {
		reason := err.Error()
		if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
			_, _ = io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
			_ = plain.Conn.Close()
			reason = "client sent an HTTP request to an HTTPS server"
		}
		c.server.logf("http: TLS handshake error from %s: %v", c.RemoteAddr(), reason)
		c.end()
		return
	}

	// net/http sets these anew where the handshake ends.
	limit := headerTimeout
	next := expectOther
	switch proto := c.ConnectionState().NegotiatedProtocol; proto {
	case http2.NextProtoTLS:
		next = expectPreface
		limit = prefaceTimeout
	case "", "http/1.1", "http/1.0":
		c.plain.Store(true)
	default: // such as that of an ACME challenge, which ends here
		c.Close()
		c.end()
		return
	}
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	_ = c.SetReadDeadline(deadline)
	_ = c.SetWriteDeadline(time.Time{})
	c.enter(next)
}

// end leaves nothing to read, and nothing to add to what is written.
func (c *conn) end() {
	c.enter(dead)
	c.plain.Store(true)
}

// looksLikeHTTP is net/http's tlsRecordHeaderLooksLikeHTTP.
func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// Write implements net.Conn. It never counts ORIGIN frames as written.
func (c *conn) Write(p []byte) (int, error) {
	if c.plain.Load() {
		return c.tlsConn.Write(p)
	}
	return c.writeOpening(p)
}

// frameHeader is the length of a frame's header (RFC 9113 section 4.1).
const frameHeader = 9

// writeOpening looks for the end of the first frame in what is written, which
// is SETTINGS (RFC 9113 section 3.4). Right behind it no HEADERS can be in the
// making, which an extension frame would break (section 5.5).
func (c *conn) writeOpening(p []byte) (int, error) {
	c.once.Do(c.handshake)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plain.Load() {
		return c.tlsConn.Write(p)
	}

	at := 0 // where in p the ORIGIN frames belong
	if missing := frameHeader - len(c.header); missing > 0 {
		at = min(missing, len(p))
		c.header = append(c.header, p[:at]...)
		if at < missing {
			return c.tlsConn.Write(p)
		}
		c.rest = int(c.header[0])<<16 | int(c.header[1])<<8 | int(c.header[2])
		if http2.FrameType(c.header[3]) != http2.FrameSettings {
			c.plain.Store(true) // such as GOAWAY: there is nothing to say any more
			return c.tlsConn.Write(p)
		}
	}
	if rest := len(p) - at; rest < c.rest {
		c.rest -= rest
		return c.tlsConn.Write(p)
	}
	at += c.rest

	c.plain.Store(true)
	frames := c.server.frames(c.ConnectionState().ServerName, c.LocalAddr())
	buf := make([]byte, 0, len(p)+len(frames.bytes))
	buf = append(append(append(buf, p[:at]...), frames.bytes...), p[at:]...)
	n, err := c.tlsConn.Write(buf)
	if err == nil {
		c.server.sent(frames)
	}
	return n - min(max(n-at, 0), len(frames.bytes)), err
}

// listener makes conns of the TLS connections of a listener.
type listener struct {
	net.Listener
	server server
}

// Accept implements net.Listener. It does not wait for a handshake: one slow
// client would keep all others out.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if c, ok := c.(tlsConn); ok {
		return &conn{tlsConn: c, server: l.server}, nil
	}
	return c, nil // plain HTTP
}

// Interface guards
var (
	_ net.Listener = (*listener)(nil)
	_ net.Conn     = (*conn)(nil)
)
