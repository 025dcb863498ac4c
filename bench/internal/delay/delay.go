// Package delay puts a distance between two ends of TCP connections: a proxy on
// loopback addresses that passes on everything in order, each thing at the same
// time after it came.
//
// What a proxy in user space cannot do: the TCP handshake takes no longer, and a
// RST behind a FIN is seen only when something is written.
package delay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Proxy has many addresses for one server: whoever goes by addresses takes
// them for as many servers.
type Proxy struct {
	to        string
	delay     time.Duration
	listeners []net.Listener
	accepted  atomic.Int64

	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[*net.TCPConn]bool // nil: closed
}

// Start listens on so many addresses for connections to the address to, and
// delays what travels on them, each way.
func Start(addresses int, to string, delay time.Duration) (*Proxy, error) {
	p := &Proxy{to: to, delay: delay, conns: make(map[*net.TCPConn]bool)}
	for range addresses {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			p.Close()
			return nil, err
		}
		p.listeners = append(p.listeners, ln)
		p.wg.Go(func() { p.serve(ln) })
	}
	return p, nil
}

// Addrs are the addresses.
func (p *Proxy) Addrs() (addrs []string) {
	for _, ln := range p.listeners {
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs
}

// Accepted is the number of connections that there have been.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Close ends all connections at once, and the proxy.
func (p *Proxy) Close() {
	for _, ln := range p.listeners {
		_ = ln.Close()
	}
	p.mu.Lock()
	for c := range p.conns {
		reset(c)
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		p.accepted.Add(1)
		p.wg.Go(func() { p.connect(c.(*net.TCPConn)) })
	}
}

// keep notes a connection that Close is to end, or ends it if it is too late.
func (p *Proxy) keep(c *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		reset(c)
		return
	}
	p.conns[c] = true
}

func (p *Proxy) drop(c *net.TCPConn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) connect(client *net.TCPConn) {
	p.keep(client)
	defer p.drop(client)
	c, err := net.Dial("tcp", p.to)
	if err != nil { // a RST, which takes as long to arrive
		time.Sleep(p.delay)
		reset(client)
		return
	}
	server := c.(*net.TCPConn)
	p.keep(server)
	defer p.drop(server)
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client) })
	both.Go(func() { p.pass(client, server) })
	both.Wait()
}

// An event is what came from one end: data, or how the connection ended.
type event struct {
	due  time.Time
	data []byte
	end  error
}

// pass passes on to dst what comes from src, until that ends or dst is gone.
func (p *Proxy) pass(dst, src *net.TCPConn) {
	events := make(chan event, 64)
	go func() {
		defer close(events)
		buffer := make([]byte, 16<<10)
		for {
			n, err := src.Read(buffer)
			due := time.Now().Add(p.delay)
			if n > 0 {
				events <- event{due: due, data: bytes.Clone(buffer[:n])}
			}
			if err != nil {
				events <- event{due: due, end: err}
				return
			}
		}
	}()
	gone := false
	for e := range events {
		if gone {
			continue
		}
		time.Sleep(time.Until(e.due))
		switch {
		case e.end == nil:
			if _, err := dst.Write(e.data); err != nil {
				// A RST of dst, which takes as long to arrive.
				gone = true
				time.Sleep(p.delay)
				reset(src)
			}
		case errors.Is(e.end, io.EOF):
			_ = dst.CloseWrite()
		default:
			reset(dst)
		}
	}
}

// reset closes a connection with a RST.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
