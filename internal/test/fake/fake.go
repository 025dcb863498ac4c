// Package fake has upstream servers that count their connections and are sick in
// one way each, for tests and benchmarks: real servers are too well behaved.
package fake

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

// A Listener is a loopback listener that counts, and that decides what becomes of
// each connection.
type Listener struct {
	net.Listener
	Accepted, Open atomic.Int64
	// admit returns what the server gets, or nil if it does not get to see it; n
	// counts from 1.
	admit func(n int64, c net.Conn) net.Conn

	mu      sync.Mutex
	conns   map[*conn]bool // nil once closed
	serving sync.WaitGroup
}

// Listen listens on a free port. A nil admit admits every connection.
func Listen(admit func(n int64, c net.Conn) net.Conn) (*Listener, error) {
	return ListenAt("127.0.0.1:0", admit)
}

// ListenAt is Listen with an address.
func ListenAt(addr string, admit func(n int64, c net.Conn) net.Conn) (*Listener, error) {
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false) // such sockets take no filter: see Deafen
	l, err := cfg.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: l, admit: admit, conns: make(map[*conn]bool)}, nil
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		accepted, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.Open.Add(1)
		c := &conn{Conn: accepted, of: l}
		l.mu.Lock()
		closed := l.conns == nil
		if !closed {
			l.conns[c] = true
		}
		l.mu.Unlock()
		if closed {
			_ = c.Close()
			continue
		}
		n := l.Accepted.Add(1)
		var admitted net.Conn = c
		if l.admit != nil {
			admitted = l.admit(n, c)
		}
		if admitted != nil {
			return admitted, nil
		}
	}
}

// CloseConns closes all connections that there are.
func (l *Listener) CloseConns() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.close()
	}
	clear(l.conns)
}

// Stop closes the listener and its connections, and waits for what serves them.
func (l *Listener) Stop() {
	_ = l.Listener.Close()
	l.mu.Lock()
	for c := range l.conns {
		_ = c.close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.serving.Wait()
}

// A conn leaves the counts when it is closed.
type conn struct {
	net.Conn
	of     *Listener
	closed atomic.Bool
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.close()
}

func (c *conn) close() error {
	if !c.closed.Swap(true) {
		c.of.Open.Add(-1)
	}
	return c.Conn.Close()
}

// Reset closes a connection of a Listener with a reset.
func Reset(c net.Conn) {
	if in, ok := c.(*conn); ok {
		_ = in.Conn.(*net.TCPConn).SetLinger(0)
	}
	_ = c.Close()
}

// Serve runs a Go server until Stop: HTTP/1 and h2c in clear, or HTTP/1 and HTTP/2
// over TLS. change, if not nil, changes the server before it starts.
func (l *Listener) Serve(secure bool, handler http.HandlerFunc, change func(*http.Server)) error {
	return Serve(l, &l.serving, secure, handler, change)
}

// Serve is the method Serve for any listener. What serves it is told to wg.
func Serve(l net.Listener, wg *sync.WaitGroup, secure bool, handler http.HandlerFunc, change func(*http.Server)) error {
	s := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(secure)
	s.Protocols.SetUnencryptedHTTP2(!secure)
	if secure {
		cert, err := testcert.SelfSigned("localhost")
		if err != nil {
			return err
		}
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	if change != nil {
		change(s)
	}
	wg.Go(func() {
		if secure {
			_ = s.ServeTLS(l, "", "")
		} else {
			_ = s.Serve(l)
		}
	})
	return nil
}

// ServeRaw calls handle for each connection until Stop; n counts from 1.
func (l *Listener) ServeRaw(handle func(n int64, c net.Conn, r *bufio.Reader)) {
	l.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := l.Accepted.Load()
			l.serving.Go(func() {
				defer c.Close()
				handle(n, c, bufio.NewReader(c))
			})
		}
	})
}

// ServeWorkers serves with a limited number of workers, as prefork servers do: a
// connection holds a worker until it is closed.
func (l *Listener) ServeWorkers(n int, header ...string) {
	places := make(chan struct{}, n)
	l.ServeRaw(func(_ int64, c net.Conn, r *bufio.Reader) {
		places <- struct{}{}
		defer func() { <-places }()
		for ReadRequest(r) != nil {
			Respond(c, "x", header...)
		}
	})
}

// ReadRequest reads one request with its body, or returns nil.
func ReadRequest(r *bufio.Reader) *http.Request {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil
	}
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return nil
	}
	req.Body = io.NopCloser(strings.NewReader(string(b)))
	return req
}

// Respond writes a response with a body and lines of a header.
func Respond(w io.Writer, body string, header ...string) {
	var lines strings.Builder
	for _, h := range header {
		lines.WriteString(h + "\r\n")
	}
	fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", len(body), lines.String(), body)
}
