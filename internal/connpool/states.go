package connpool

import (
	"fmt"
	"iter"
	"slices"
	"time"
)

// A state is where a connection is in its life.
type state uint32

const (
	dialing  state = iota // not open yet
	fresh                 // open, has carried no request
	idle                  // carries no request, waits in the pool
	busy                  // carries at least one request
	draining              // HTTP/2: carries requests and takes no more
	sensor                // set aside to see when the upstream closes it
	upgraded              // left the pool with a 101 response
	closing               // we are closing it
	closed
	numStates
)

var stateNames = [numStates]string{"dialing", "fresh", "idle", "busy", "draining", "sensor", "upgraded", "closing", "closed"}

func (s state) String() string { return stateNames[s] }

// allowed is the life of a connection: where it can go from each state.
var allowed = [numStates][]state{
	dialing:  {fresh, closed},
	fresh:    {busy, closing, closed},
	idle:     {busy, sensor, closing, closed},
	busy:     {idle, fresh, draining, upgraded, closing, closed},
	draining: {closing, closed},
	sensor:   {closing, closed},
	upgraded: {closed},
	closing:  {closed},
}

// Strict makes a move that the table does not allow panic. Tests set it. Without
// it, such a move is left out.
var Strict bool

// moves tells whether the table has a move.
func moves(from, to state) bool {
	return slices.Contains(allowed[from], to)
}

// addLocked makes c, which is to be dialed, one of the pool's.
func (p *Pool) addLocked(c *conn) { p.lists[dialing].Push(&c.place, c) }

// moveLocked moves c to another state. It is the only function that does.
func (p *Pool) moveLocked(c *conn, to state) {
	from := c.at()
	if !moves(from, to) {
		if Strict {
			panic(fmt.Sprintf("connpool: a connection moved from %v to %v", from, to))
		}
		return
	}
	c.state.Store(uint32(to))
	p.lists[c.listOfLocked(from)].Remove(&c.place)
	if to != closed {
		p.lists[c.listOfLocked(to)].Push(&c.place, c)
	}
	if c.owner != nil && (to == draining || to == upgraded || to == closing || to == closed) {
		p.unpinLocked(c)
	}
	switch from {
	case fresh, idle:
		p.group.idle.Remove(&c.inGroup)
	case sensor:
		c.learner.EndSensor()
	}
	if to == fresh || to == idle {
		if victim := p.group.idle.Push(&c.inGroup, c); victim != nil {
			p.afterLocked(func() { victim.pool.evict(victim) })
		}
	}
}

// Connections are kept in lists by state. Those of HTTP/2 that carry requests are
// apart, since more requests may join them. So are pinned ones that carry none: they
// are of use to their owner only, which needs no list to find them.
const (
	listStreams = int(numStates) + iota
	listPinned
	numLists = listPinned + 1
)

func (c *conn) listOfLocked(s state) int {
	switch {
	case s == busy && c.h2 && c.owner == nil:
		return listStreams
	case c.owner != nil && (s == idle || s == fresh):
		return listPinned
	}
	return int(s)
}

// setOwnerLocked gives c an owner, and moves it to the list where nobody else looks.
func (p *Pool) setOwnerLocked(c *conn, o *Owner) {
	p.lists[c.listOfLocked(c.at())].Remove(&c.place)
	c.owner = o
	p.lists[c.listOfLocked(c.at())].Push(&c.place, c)
}

// inListsLocked goes through the connections of some lists. The one at hand may move.
func (p *Pool) inListsLocked(some []int) iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for _, l := range some {
			for c := range p.lists[l].All() {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// inLocked returns how many connections are in a state.
func (p *Pool) inLocked(s state) int {
	n := p.lists[s].Len()
	switch s {
	case busy:
		n += p.lists[listStreams].Len()
	case idle:
		n += p.lists[listPinned].Len()
	}
	return n
}

// countedLocked returns how many connections count under max_conns_per_host.
// Draining ones do not, up to as many again: their streams may last for days.
func (p *Pool) countedLocked() int {
	n := 0
	for _, s := range [...]state{dialing, fresh, idle, busy, sensor, closing} {
		n += p.inLocked(s)
	}
	return n + max(0, p.inLocked(draining)-p.cfg.MaxConns)
}

// elapsed is the larger of the monotonic and the wall clock's answer, since either
// may have stood still (process or machine suspended). It is none where now was asked for
// before what is since then happened on another goroutine.
func elapsed(since, now time.Time) time.Duration {
	return max(0, now.Sub(since), time.Duration(now.UnixNano()-since.UnixNano()))
}
