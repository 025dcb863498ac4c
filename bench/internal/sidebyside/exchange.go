package sidebyside

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Exchange sends a request for [Host] over HTTP/1.1, a POST with a body of one byte,
// and reads the response to its end. It gives up after patience, and repeats nothing,
// unlike browsers and net/http's client, which would hide failures.
func Exchange(conn net.Conn, reader *bufio.Reader, method, target string, patience time.Duration) (*http.Response, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	rest := "\r\n"
	if method == http.MethodPost {
		rest = "Content-Length: 1\r\n\r\nx"
	}
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n%s", method, target, Host, rest); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(reader, &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}
