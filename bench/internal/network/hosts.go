package network

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Hosts is a network between browsers and a Caddy on loopback. It is at addresses of its
// own, so that hosts have the port that Caddy knows.
type Hosts struct {
	Addresses map[string]string // by host
	tcp       []*Relay
	udp       []*UDPRelay
}

// StartHosts starts a network for hosts, which Caddy serves at a port: at one address, or
// apart from each other. Addresses are counted from 127.0.0.first. Without quic it passes
// only TCP on.
func StartHosts(hosts []string, port string, first int, apart, quic bool, delay time.Duration) (*Hosts, error) {
	h := &Hosts{Addresses: make(map[string]string)}
	for i, host := range hosts {
		if i > 0 && !apart {
			h.Addresses[host] = h.Addresses[hosts[0]]
			continue
		}
		h.Addresses[host] = fmt.Sprintf("127.0.0.%d", first+i)
		addr, caddy := net.JoinHostPort(h.Addresses[host], port), net.JoinHostPort("127.0.0.1", port)
		tcp, err := Start(addr, caddy, delay)
		if err == nil {
			h.tcp = append(h.tcp, tcp)
		}
		if quic {
			udp, errUDP := StartUDP(addr, caddy, delay)
			if errUDP == nil {
				h.udp = append(h.udp, udp)
			}
			err = errors.Join(err, errUDP)
		}
		if err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

// Handshakes are those of TLS over TCP.
func (h *Hosts) Handshakes() (n int) {
	for _, r := range h.tcp {
		n += int(r.Handshakes.Load())
	}
	return n
}

// Close ends it.
func (h *Hosts) Close() {
	var all sync.WaitGroup
	for _, r := range h.tcp {
		all.Go(r.Close)
	}
	for _, r := range h.udp {
		all.Go(r.Close)
	}
	all.Wait()
}
