package network

import (
	"bytes"
	"net"
	"sync"
	"time"
)

// A UDPRelay passes datagrams on, each late by a delay. Each client gets a port of
// its own towards the target.
type UDPRelay struct {
	from   *net.UDPConn
	target *net.UDPAddr
	delay  time.Duration

	mu      sync.Mutex
	clients map[string]*net.UDPConn // nil once closed
	wg      sync.WaitGroup
}

// StartUDP listens on an address for datagrams to a target.
func StartUDP(addr, target string, delay time.Duration) (*UDPRelay, error) {
	from, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	to, err := net.ResolveUDPAddr("udp", target)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", from)
	if err != nil {
		return nil, err
	}
	r := &UDPRelay{from: conn, target: to, delay: delay, clients: make(map[string]*net.UDPConn)}
	r.wg.Go(func() { r.pass(conn, r.toTarget) })
	return r, nil
}

// Close ends it.
func (r *UDPRelay) Close() {
	_ = r.from.Close()
	r.mu.Lock()
	for _, c := range r.clients {
		_ = c.Close()
	}
	r.clients = nil
	r.mu.Unlock()
	r.wg.Wait()
}

// pass reads datagrams and hands each to send when it is due, in order.
func (r *UDPRelay) pass(from *net.UDPConn, send func(data []byte, sender *net.UDPAddr)) {
	type datagram struct {
		data   []byte
		sender *net.UDPAddr
		due    time.Time
	}
	late := make(chan datagram, 4096)
	var sender sync.WaitGroup
	sender.Go(func() {
		for d := range late {
			time.Sleep(time.Until(d.due))
			send(d.data, d.sender)
		}
	})
	defer sender.Wait()
	defer close(late)
	for buf := make([]byte, 64<<10); ; {
		n, addr, err := from.ReadFromUDP(buf)
		if err != nil {
			return // closed
		}
		late <- datagram{bytes.Clone(buf[:n]), addr, time.Now().Add(r.delay)}
	}
}

// toTarget sends a datagram of a client to the target, and begins to pass back what
// comes for that client.
func (r *UDPRelay) toTarget(data []byte, client *net.UDPAddr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients == nil {
		return
	}
	c := r.clients[client.String()]
	if c == nil {
		var err error
		if c, err = net.DialUDP("udp", nil, r.target); err != nil {
			return // as lost
		}
		r.clients[client.String()] = c
		r.wg.Go(func() { r.pass(c, func(data []byte, _ *net.UDPAddr) { _, _ = r.from.WriteToUDP(data, client) }) })
	}
	_, _ = c.Write(data) // an error is a loss
}
