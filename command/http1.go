package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxHeader bounds the header of a response, in octets.
const maxHeader = 256 << 10

// userAgent tells the logs of a server who asks.
const userAgent = "caddy-connreuse"

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

// An http1 speaks HTTP/1 on a connection.
type http1 struct {
	*connection
	limit  io.LimitedReader
	reader *bufio.Reader
}

func newHTTP1(c *connection) *http1 {
	h := &http1{connection: c, limit: io.LimitedReader{R: c}}
	h.reader = bufio.NewReader(&h.limit)
	return h
}

func (h *http1) get(t target, whole bool) (answer, error) {
	h.allow(h.timeout)
	// Apache and Tomcat announce their timeout only to those who ask for a
	// connection that lasts.
	req := &http.Request{
		Method: http.MethodGet, Host: t.authority(), URL: t.url,
		Header: http.Header{"Connection": {"keep-alive"}, "User-Agent": {userAgent}},
	}
	if err := req.Write(h); err != nil {
		return answer{}, h.failed("sending the request", err)
	}
	for {
		h.limit.N = maxHeader
		resp, err := http.ReadResponse(h.reader, req)
		if err != nil {
			if h.limit.N <= 0 {
				return answer{}, fmt.Errorf("the header of the response is larger than %d KiB", maxHeader>>10)
			}
			return answer{}, h.failed("", err)
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue // the final response follows
		}
		h.limit.N = math.MaxInt64
		if whole {
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return answer{}, h.failed("reading the response", err)
			}
		}
		a := answer{protocol: resp.Proto, status: resp.StatusCode, header: resp.Header}
		// net/http has taken "close" out of the header
		switch {
		case resp.StatusCode == http.StatusSwitchingProtocols:
			a.last = "the server switched to another protocol"
		case !resp.Close:
		case !resp.ProtoAtLeast(1, 1):
			a.last = resp.Proto + " without Connection: keep-alive"
		case resp.ContentLength < 0 && len(resp.TransferEncoding) == 0:
			a.last = "the response ends with the connection"
		default:
			a.last = "Connection: close"
		}
		return a, nil
	}
}

func (h *http1) watch(begin time.Time, maxWait time.Duration) (seen idle) {
	h.allow(time.Until(begin.Add(maxWait)))
	buf := make([]byte, 4096)
	for {
		n, err := h.reader.Read(buf)
		if n > 0 {
			if seen.surplus == 0 {
				seen.note(surplusBytes, begin)
				seen.sample = string(buf[:min(n, 40)])
			}
			seen.surplus += n
		}
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				seen.note(h.ended(err), begin)
				seen.closed = true
			}
			return seen
		}
	}
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
