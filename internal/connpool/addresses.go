package connpool

import (
	"net/netip"
	"slices"
	"time"
)

// holding are the lists of connections that carry requests or may do so again, and
// of the sensor.
var holding = [...]int{int(fresh), int(idle), int(sensor), int(busy), listStreams, listPinned}

// Remote returns the address that the connection goes to. There is none over a
// Unix socket.
func (l *Lease) Remote() netip.Addr { return l.c.net.Remote() }

// Remotes returns the addresses that connections go to, and of each whether a
// response has come from there. What takes no further requests does not count.
func (p *Pool) Remotes() map[netip.Addr]bool {
	p.lock()
	defer p.unlock()
	answered := make(map[netip.Addr]bool)
	for c := range p.inListsLocked(holding[:]) {
		if a := c.net.Remote(); a.IsValid() && !c.left {
			answered[a] = answered[a] || c.answered.Load()
		}
	}
	return answered
}

// Leave takes the connections to addrs out of use, and returns how many that were.
// Requests under way are carried to their end.
func (p *Pool) Leave(addrs []netip.Addr) (left int) {
	p.lock()
	defer p.unlock()
	now := time.Now()
	for c := range p.inListsLocked(holding[:]) {
		if !c.left && slices.Contains(addrs, c.net.Remote()) {
			c.left = true
			left++
			if !c.carries() {
				p.closeLocked(c, CloseDNS)
			} else if c.h2 {
				p.drainLocked(c, now)
			}
		}
	}
	p.startDialsLocked(now)
	p.tidyLocked(now)
	return left
}
