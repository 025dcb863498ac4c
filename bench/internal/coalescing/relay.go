package coalescing

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A relay stands in for a network: it passes TCP connections on, each byte late by
// a delay, and counts TLS handshakes, resumed ones and those on connections that
// see no request included.
type relay struct {
	listener   net.Listener
	target     string
	delay      time.Duration
	handshakes atomic.Int64

	mu    sync.Mutex
	conns []net.Conn // nil once closed
	wg    sync.WaitGroup
}

func startRelay(addr, target string, delay time.Duration) (*relay, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	r := &relay{listener: listener, target: target, delay: delay, conns: []net.Conn{}}
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

// close ends all connections and waits for what serves them.
func (r *relay) close() {
	_ = r.listener.Close()
	r.mu.Lock()
	for _, conn := range r.conns {
		_ = conn.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	r.wg.Wait()
}

// keep tells close of a connection; it is false afterwards.
func (r *relay) keep(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		_ = conn.Close()
		return false
	}
	r.conns = append(r.conns, conn)
	return true
}

func (r *relay) serve(client net.Conn) {
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
func (r *relay) pass(to, from net.Conn, fromClient bool) {
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
			r.handshakes.Add(1)
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
