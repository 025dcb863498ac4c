// Package resolve follows names: it tells which addresses of a name DNS has given
// up, so that connections to them carry no further requests. A name is looked up
// again for as long as there are connections to it.
package resolve

import (
	"net/netip"
	"slices"
)

const (
	// few is how many answers must leave out an address before it is given up. One
	// alone may come from a server that is behind.
	few = 3

	// many is how many there must be where answers rotate: where each names only
	// some of the addresses, in turn or at random.
	many = 20

	// maxAddrs is how many addresses of an answer are kept. One with more changes
	// nothing: no name needs so many, and memory is bounded.
	maxAddrs = 64
)

// A History holds the last answers for one name. IPv4 and IPv6 have answers of
// their own: a server may leave out a family at times. The zero value is ready.
type History struct {
	v4, v6 family
}

// Add notes an answer. One that names no address of a family says nothing about
// that family. One with an unspecified address (0.0.0.0) says nothing at all: it
// leads to this host, by another address.
func (h *History) Add(answer []netip.Addr) {
	if len(answer) > maxAddrs || slices.ContainsFunc(answer, func(a netip.Addr) bool { return plain(a).IsUnspecified() }) {
		return
	}
	var v4, v6 []netip.Addr
	for _, a := range answer {
		switch a = plain(a); {
		case a.Is4():
			v4 = append(v4, a)
		case a.Is6():
			v6 = append(v6, a)
		}
	}
	h.v4.add(v4)
	h.v6.add(v6)
}

// Gone tells whether an address was given up: none of the last answers names it.
// As long as there were too few answers, none is.
func (h *History) Gone(a netip.Addr) bool {
	switch a = plain(a); {
	case a.Is4():
		return h.v4.gone(a)
	case a.Is6():
		return h.v6.gone(a)
	}
	return false
}

// plain returns an address as it is compared: an IPv4 address is one however it is
// written, and a zone is a matter of this host alone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// A family holds the answers of one address family, the latest last.
type family struct {
	answers [][]netip.Addr // at most many, never empty ones
	// rotates counts down the answers for which the name is taken to rotate.
	rotates int
}

func (f *family) add(answer []netip.Addr) {
	if len(answer) == 0 {
		return
	}
	if f.rotates > 0 {
		f.rotates--
	}
	if f.comesBack(answer) || f.disjoint(answer) {
		f.rotates = many
	}
	if len(f.answers) == many {
		f.answers = append(f.answers[:0], f.answers[1:]...)
	}
	f.answers = append(f.answers, answer)
}

// comesBack tells whether an answer names an address again that the last few had
// left out.
func (f *family) comesBack(answer []netip.Addr) bool {
	if len(f.answers) <= few {
		return false
	}
	earlier, last := f.answers[:len(f.answers)-few], f.last(few)
	return slices.ContainsFunc(answer, func(a netip.Addr) bool { return !names(last, a) && names(earlier, a) })
}

// disjoint tells whether an answer and the ones before it, few in all, have no
// address in common.
func (f *family) disjoint(answer []netip.Addr) bool {
	if len(f.answers) < few-1 {
		return false
	}
	run := append(slices.Clone(f.last(few-1)), answer)
	for i, a := range run {
		if slices.ContainsFunc(a, func(a netip.Addr) bool { return names(run[:i], a) }) {
			return false
		}
	}
	return true
}

func (f *family) gone(a netip.Addr) bool {
	n := few
	if f.rotates > 0 {
		n = many
	}
	return len(f.answers) >= n && !names(f.last(n), a)
}

// last returns the last n answers.
func (f *family) last(n int) [][]netip.Addr { return f.answers[len(f.answers)-n:] }

// names tells whether one of the answers names an address.
func names(answers [][]netip.Addr, a netip.Addr) bool {
	return slices.ContainsFunc(answers, func(answer []netip.Addr) bool { return slices.Contains(answer, a) })
}
