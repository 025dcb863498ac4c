// Package network stands in for a network between browsers and Caddy: relays at
// addresses of their own pass everything on, late.
package network

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Relay passes TCP connections on, each byte late by a delay, and counts TLS
// handshakes, resumed ones and those on connections that see no request included.
type Relay struct {
	listener   net.Listener
	target     string
	delay      time.Duration
	Handshakes atomic.Int64

	mu    sync.Mutex
	conns []net.Conn // nil once closed
	wg    sync.WaitGroup
}

// Start listens on an address for connections to a target.
func Start(addr, target string, delay time.Duration) (*Relay, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &Relay{listener: listener, target: target, delay: delay, conns: []net.Conn{}}
	r.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			r.wg.Go(func() { r.serve(conn) })
		}
	})
	return r, nil
}

// Close ends all connections and waits for what serves them.
func (r *Relay) Close() {
	_ = r.listener.Close()
	r.mu.Lock()
	for _, conn := range r.conns {
		_ = conn.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

// keep tells Close of a connection; it is false afterwards.
func (r *Relay) keep(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		_ = conn.Close()
		return false
	}
	r.conns = append(r.conns, conn)
	return true
}

func (r *Relay) serve(client net.Conn) {
	defer client.Close()
	if !r.keep(client) {
		return
	}
	time.Sleep(2 * r.delay) // of the TCP handshake, which the kernel has answered already
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !r.keep(server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.pass(server, client, true) })
	both.Go(func() { r.pass(client, server, false) })
	both.Wait()
}

// pass copies bytes until one side closes, and then closes both.
func (r *Relay) pass(to, from net.Conn, fromClient bool) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	pieces := make(chan piece, 1024)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			_, _ = to.Write(p.bytes) // the reader sees a closed connection as well
		}
		_ = to.Close()
	})
	const handshake = 22 // content type, RFC 8446 section 5.1
	for first := true; ; first = false {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if fromClient && first && n > 0 && buf[0] == handshake {
			r.Handshakes.Add(1)
		}
		if n > 0 {
			pieces <- piece{buf[:n], time.Now().Add(r.delay)}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writer.Wait()
	_ = from.Close()
}
