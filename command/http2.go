package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-connreuse/connreuse/origin"
)

// maxOrigins bounds the ORIGIN frames of a connection that are kept, in octets
// (RFC 8336 section 4). Most servers need less than 1 KiB.
const maxOrigins = 256 << 10

// An http2Conn speaks HTTP/2 on a connection. It shows what net/http's client
// keeps to itself: GOAWAY and ORIGIN frames.
type http2Conn struct {
	*connection
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	stream  uint32 // of the last request
	greeted bool   // the server's SETTINGS have come
	read    int    // octets of the frame that is being read

	goAway    string   // the error code of the first GOAWAY frame; empty: none
	told      bool     // an ORIGIN frame has come
	origins   []string // that are in ORIGIN frames
	octets    int      // of all ORIGIN frames
	originErr error    // of the first bad one
}

func newHTTP2(c *connection) (*http2Conn, error) {
	h := &http2Conn{connection: c}
	h.framer = http2.NewFramer(c, tally{c, &h.read})
	h.framer.SetMaxReadFrameSize(16384) // RFC 9113 section 4.2: what applies without a setting
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.framer.MaxHeaderListSize = maxHeader
	h.encoder = hpack.NewEncoder(&h.block)
	h.encoder.SetMaxDynamicTableSizeLimit(0) // the server may want none
	h.allow(h.timeout)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, h.failed("sending the preface", err)
	}
	if err := h.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}); err != nil {
		return nil, h.failed("sending SETTINGS", err)
	}
	return h, nil
}

func (h *http2Conn) get(t target, p *page) (answer, error) {
	h.allow(h.timeout)
	x := exchange{h: h, target: t, page: p, answer: answer{protocol: "h2"}}
	if h.tls == nil {
		x.answer.protocol = "h2c"
	}
	if err := h.send(t); err != nil {
		return answer{}, h.failed("sending the request", err)
	}
	for {
		frame, err := h.next()
		if err != nil {
			return x.cutShort(err)
		}
		if frame.Header().StreamID != h.stream {
			if f, ok := frame.(*http2.GoAwayFrame); ok && f.LastStreamID < h.stream {
				return answer{}, fmt.Errorf("the server refused the request with GOAWAY (%s)", f.ErrCode)
			}
			continue
		}
		end, err := x.handle(frame)
		if err != nil {
			return answer{}, err
		}
		if end {
			if h.goAway != "" {
				x.answer.last = "GOAWAY (" + h.goAway + ")"
			}
			x.finish()
			return x.answer, nil
		}
	}
}

// send sends a GET request on a stream of its own.
func (h *http2Conn) send(t target) error {
	if h.stream == 0 {
		h.stream = 1
	} else {
		h.stream += 2
	}
	scheme := "http"
	if h.tls != nil {
		scheme = "https"
	}
	h.block.Reset()
	for _, field := range [][2]string{
		{":method", "GET"}, {":scheme", scheme}, {":authority", t.authority()}, {":path", t.url.RequestURI()}, {"user-agent", userAgent},
	} {
		// a bytes.Buffer returns no errors
		_ = h.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	return h.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: h.stream, BlockFragment: h.block.Bytes(), EndStream: true, EndHeaders: true,
	})
}

// An exchange is the request under way on a connection.
type exchange struct {
	h      *http2Conn
	target target
	page   *page // what the response shows goes into it; nil: the body is dropped
	answer answer
}

// handle takes a frame of the exchange's stream, and tells whether that was the
// end of it.
func (x *exchange) handle(frame http2.Frame) (end bool, err error) {
	switch f := frame.(type) {
	case *http2.RSTStreamFrame:
		return false, fmt.Errorf("the server reset the request (%s)", f.ErrCode)
	case *http2.MetaHeadersFrame:
		return x.headers(f)
	case *http2.DataFrame:
		return x.data(f)
	default:
		return false, nil
	}
}

func (x *exchange) headers(f *http2.MetaHeadersFrame) (end bool, err error) {
	if f.Truncated {
		return false, fmt.Errorf("the header of the response is larger than %d KiB", maxHeader>>10)
	}
	if x.answer.status >= 200 { // these are trailers
		return f.StreamEnded(), nil
	}
	if x.answer.status, err = strconv.Atoi(f.PseudoValue("status")); err != nil {
		return false, fmt.Errorf("the response has the status '%s'", f.PseudoValue("status"))
	}
	if x.answer.status >= 200 && x.page != nil {
		x.page.describe(x.target, func(name string) string {
			for _, field := range f.RegularFields() {
				if strings.EqualFold(field.Name, name) {
					return field.Value
				}
			}
			return ""
		})
		if x.page.cut != "" && !f.StreamEnded() {
			return true, x.cancel()
		}
	}
	return f.StreamEnded(), nil
}

func (x *exchange) data(f *http2.DataFrame) (end bool, err error) {
	if x.page != nil && !x.page.add(f.Data()) && !f.StreamEnded() {
		return true, x.cancel()
	}
	if n := f.Header().Length; n > 0 && !f.StreamEnded() {
		if err := x.h.framer.WriteWindowUpdate(x.h.stream, n); err != nil {
			return false, x.h.failed("reading the response", err)
		}
	}
	return f.StreamEnded(), nil
}

func (x *exchange) finish() {
	if x.page != nil {
		x.page.finish(x.answer.status)
	}
}

// cancel tells the server that the rest of the response is not wanted.
func (x *exchange) cancel() error {
	if err := x.h.framer.WriteRSTStream(x.h.stream, http2.ErrCodeCancel); err != nil {
		return x.h.failed("cancelling the request", err)
	}
	return nil
}

// cutShort is the result when no frame can be read any more. A page that took too
// long is one all the same. Other requests can follow it, unless a frame was cut.
func (x *exchange) cutShort(err error) (answer, error) {
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if late && x.page != nil && x.answer.status >= 200 {
		x.page.tooLate(x.h.timeout)
		x.page.finish(x.answer.status)
		x.h.allow(x.h.timeout)
		if x.h.read > 0 {
			x.answer.last = "the response did not end"
		} else if err := x.cancel(); err != nil {
			return answer{}, err
		}
		return x.answer, nil
	}
	if !x.h.greeted && !late && x.h.ended(err) == err.Error() {
		return answer{}, fmt.Errorf("the server speaks no HTTP/2: %w", err)
	}
	return answer{}, x.h.failed("reading the response", err)
}

// A tally counts what is read.
type tally struct {
	io.Reader
	n *int
}

func (t tally) Read(b []byte) (int, error) {
	n, err := t.Reader.Read(b)
	*t.n += n
	return n, err
}

// next reads a frame and does what every client has to.
func (h *http2Conn) next() (http2.Frame, error) {
	h.read = 0
	frame, err := h.framer.ReadFrame()
	if err != nil {
		return nil, err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if h.greeted = true; !f.IsAck() {
			err = h.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			err = h.framer.WritePing(true, f.Data)
		}
	case *http2.DataFrame:
		if n := f.Header().Length; n > 0 {
			err = h.framer.WriteWindowUpdate(0, n)
		}
	case *http2.GoAwayFrame:
		if h.goAway == "" {
			h.goAway = f.ErrCode.String()
		}
	case *http2.UnknownFrame:
		h.readOrigins(f)
	}
	return frame, err
}

// readOrigins adds up the ORIGIN frames of the connection (RFC 8336 section 2.3).
func (h *http2Conn) readOrigins(f *http2.UnknownFrame) {
	origins, ok, err := origin.ParseFrame(f)
	if !ok {
		return
	}
	h.told = true
	if h.octets += len(f.Payload()); h.octets > maxOrigins {
		err = fmt.Errorf("there are more than %d KiB of ORIGIN frames", maxOrigins>>10)
		origins = nil
	}
	h.origins = append(h.origins, origins...)
	if h.originErr == nil {
		h.originErr = err
	}
}

// originSet says what the ORIGIN frames of the connection say about t.
func (h *http2Conn) originSet(t target) originSet {
	switch {
	case !h.told:
		return originAbsent
	case len(h.origins) == 0:
		return originEmpty
	case slices.ContainsFunc(h.origins, func(o string) bool { return strings.EqualFold(o, t.origin()) }):
		return originListed
	default:
		return originNotListed
	}
}

// lateGoAway is how long a GOAWAY may take that belongs to an answer.
const lateGoAway = time.Second

// awaitGoAway waits for a GOAWAY behind an answer, unless one has come already.
func (h *http2Conn) awaitGoAway() {
	h.allow(lateGoAway)
	for h.goAway == "" {
		if _, err := h.next(); err != nil {
			return
		}
	}
}

// goAwayGrace is how long the connection may stay open after a GOAWAY before
// watching it ends; net/http's server closes it after a second.
const goAwayGrace = 5 * time.Second

func (h *http2Conn) watch(begin time.Time, maxWait time.Duration) (seen idle) {
	h.allow(time.Until(begin.Add(maxWait)))
	for {
		frame, err := h.next()
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				seen.note(h.ended(err), begin)
				seen.closed = true
			}
			return seen
		}
		if _, ok := frame.(*http2.GoAwayFrame); ok && !seen.closed {
			seen.note("GOAWAY ("+h.goAway+")", begin)
			seen.closed = true
			h.allow(goAwayGrace)
		}
	}
}
