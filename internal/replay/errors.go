package replay

import (
	"errors"
	"reflect"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/neterr"
)

// The errors below have no exported value or type in golang.org/x/net/http2 or
// net/http, so their texts are all there is. TestErrorTexts provokes the real
// ones: should a text change, that test fails, and until it is corrected here
// a request is replayed less often, never more.
const (
	// The stream's id is above the last one that a GOAWAY names: the upstream
	// has not looked at it and never will (RFC 9113 section 6.8).
	textGoAway = "http2: Transport received Server's graceful shutdown GOAWAY"

	// The connection was closed, or had its GOAWAY, before the stream began.
	textUnusable       = "http2: client conn not usable"
	textNotEstablished = "http2: client conn could not be established"

	// An idle HTTP/1 connection was closed by the upstream, in any of the
	// ways that net/http takes for an orderly end (FIN, close_notify, 408).
	textServerClosedIdle = "http: server closed idle connection"
)

// WasRefused tells whether an HTTP/2 upstream said, or it is certain otherwise,
// that it has not processed the request (RFC 9113 section 8.7).
func WasRefused(err error) bool {
	if se, ok := errors.AsType[http2.StreamError](err); ok {
		return se.Code == http2.ErrCodeRefusedStream
	}
	switch err.Error() {
	case textGoAway, textUnusable, textNotEstablished:
		return true
	}
	return false
}

// ClosedWhileIdle tells whether an HTTP/1 connection ended with err because the
// upstream closed it while it was idle.
func ClosedWhileIdle(err error) bool {
	return err.Error() == textServerClosedIdle || neterr.IsReset(err)
}

// Plain takes off the wrappers that http.Transport takes off, too: reverse_proxy
// looks at the type of what is inside.
func Plain(err error) error {
	for err != nil {
		switch reflect.TypeOf(err).String() {
		case "http.nothingWrittenError", "http.transportReadFromServerError":
			err = errors.Unwrap(err)
		default:
			return err
		}
	}
	return err
}
