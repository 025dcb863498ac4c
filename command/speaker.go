package command

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/neterr"
)

// maxHeader bounds the header of a response, in octets.
const maxHeader = 256 << 10

// userAgent tells the logs of a server who asks.
const userAgent = "caddy-connreuse"

// A speaker speaks the protocol of a connection.
type speaker interface {
	// get sends a GET request and reads the response. Into p goes what the
	// response shows, up to maxPage octets of its body; if p is nil, all of the
	// body is read and dropped.
	get(t target, p *page) (answer, error)
	// watch waits for the server to end the connection, until maxWait after
	// begin at most.
	watch(begin time.Time, maxWait time.Duration) idle
}

func (c *connection) speak() (speaker, error) {
	if !c.h2 {
		return newHTTP1(c), nil
	}
	h, err := newHTTP2(c)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// An answer is what a server says to one request.
type answer struct {
	protocol string // HTTP/1.1, h2, ...
	status   int
	header   http.Header // nil for HTTP/2
	// last says why no other request can follow on the connection; empty if one can.
	last string
}

func (a answer) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)))
}

// failed explains an error of an exchange that began.
func (c *connection) failed(doing string, err error) error {
	switch end := c.ended(err); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no complete response within %s", c.timeout)
	case end != err.Error():
		return fmt.Errorf("the server closed the connection (%s) before it had answered", end)
	case doing == "":
		return fmt.Errorf("the server speaks no HTTP: %w", err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// ended says how the other side ended the connection, given the error of what
// was tried last; or it is that error.
func (c *connection) ended(err error) string {
	switch op, ok := errors.AsType[*net.OpError](err); {
	case ok && op.Op == "remote error": // of crypto/tls
		return "TLS alert: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	case neterr.IsReset(err), neterr.IsBroken(err):
		return "RST"
	case c.tls != nil && c.wire.err == nil && errors.Is(err, io.EOF):
		return "close_notify"
	case errors.Is(c.wire.err, io.EOF):
		return "FIN"
	default:
		return err.Error()
	}
}
