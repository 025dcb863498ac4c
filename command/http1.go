package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"time"
)

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

func (h *http1) get(t target, p *page) (answer, error) {
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
		a := answer{protocol: resp.Proto, status: resp.StatusCode, header: resp.Header, last: endsConnection(resp)}
		if p != nil {
			return h.show(a, p, t, resp)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return answer{}, h.failed("reading the response", err)
		}
		return a, nil
	}
}

// show takes what the response shows. It is an answer, too, if the body does not
// end in time.
func (h *http1) show(a answer, p *page, t target, resp *http.Response) (answer, error) {
	p.describe(t, resp.Header.Get)
	if err := p.read(resp.Body); errors.Is(err, os.ErrDeadlineExceeded) {
		p.tooLate(h.timeout)
	} else if err != nil {
		return answer{}, h.failed("reading the response", err)
	}
	if p.cut != "" {
		a.last = "the response was not read to its end"
	}
	p.finish(resp.StatusCode)
	return a, nil
}

// endsConnection says why no other request can follow a response on its
// connection; empty if one can. net/http has taken "close" out of the header.
func endsConnection(resp *http.Response) string {
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		return "the server switched to another protocol"
	case !resp.Close:
		return ""
	case !resp.ProtoAtLeast(1, 1):
		return resp.Proto + " without Connection: keep-alive"
	case resp.ContentLength < 0 && len(resp.TransferEncoding) == 0:
		return "the response ends with the connection"
	default:
		return "Connection: close"
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
