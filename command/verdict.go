package command

import "fmt"

// What ORIGIN frames say about a host (RFC 8336). The values are part of the
// JSON output.
type originSet string

const (
	originAbsent    originSet = "absent"     // no frame came
	originEmpty     originSet = "empty"      // only the host that the connection was opened for
	originListed    originSet = "listed"     // the host is in the set
	originNotListed originSet = "not_listed" // others are
)

// A verdict on a pair. The values are part of the JSON output.
type verdict string

const (
	verdictNotTried     verdict = "not_tried"    // no client coalesces
	verdictShared       verdict = "shared"       // a client that does gets the answer it would get anyway
	verdictRefused      verdict = "refused"      // it gets 421 and asks again
	verdictContradicted verdict = "contradicted" // it gets 421 although an ORIGIN frame invited it
	verdictWrong        verdict = "wrong"        // it gets another answer
	verdictBroken       verdict = "broken"       // it gets none
	verdictUnchecked    verdict = "unchecked"
)

// found are the facts about one pair: the first host's connection, and the
// second's request on it.
type found struct {
	first, second string // hosts, for people
	h2            bool   // the connection speaks HTTP/2
	protocol      string
	once          bool // the server ends connections with GOAWAY at their first answer
	sameAddress   bool // an address and the port in common
	covered       bool // the certificate of the connection is valid for the second
	origin        originSet
	status        int   // of the answer on the connection
	err           error // or why there is none
	own           int   // status on a connection of its own; 0: none
}

// obeying tells whether a client that obeys ORIGIN frames coalesces: the set
// replaces the comparison of addresses (RFC 8336 section 2.4).
func (f found) obeying() bool {
	if f.origin == originAbsent {
		return f.ignoring()
	}
	return f.shareable() && f.covered && f.origin == originListed
}

// ignoring tells whether a client that ignores ORIGIN frames coalesces
// (RFC 9113 section 9.1.1).
func (f found) ignoring() bool { return f.shareable() && f.covered && f.sameAddress }

// shareable tells whether a second request can follow on the connection while
// others do.
func (f found) shareable() bool { return f.h2 && !f.once }

// judge says what the facts come to, and what that means.
func (f found) judge() (verdict, string) {
	switch {
	case !f.h2:
		return verdictNotTried, fmt.Sprintf("Clients will not try: %s speaks %s, and only HTTP/2 connections are shared.", f.first, f.protocol)
	case f.once:
		return verdictNotTried, fmt.Sprintf("Clients will not try: the server ends each connection for %s with GOAWAY at its first answer.", f.first)
	case !f.obeying() && !f.ignoring():
		why := "the two have no address and port in common, and no ORIGIN frame lists " + f.second
		if !f.covered {
			why = "the certificate does not cover " + f.second
		} else if f.sameAddress {
			why = "the ORIGIN frame does not list " + f.second
		}
		text := fmt.Sprintf("Clients will not try: %s.", why)
		if f.err == nil && f.status != 421 && !f.covered {
			text += fmt.Sprintf(" Whoever does all the same is answered %d; misdirected would refuse it.", f.status)
		}
		return verdictNotTried, text
	case f.err != nil:
		return verdictBroken, fmt.Sprintf("%s gets no answer; a 421 would tell it to ask on a new connection.", f.who())
	case f.status == 421 && f.own == 421:
		return verdictWrong, fmt.Sprintf("%s is refused even on a connection of its own: no client gets an answer.", f.second)
	case f.status == 421 && f.origin == originListed:
		return verdictContradicted, fmt.Sprintf("The ORIGIN frame lists %s, which is then refused: Firefox tries in vain on each new connection. Take it off the list.", f.second)
	case f.status == 421 && f.origin == originAbsent:
		return verdictRefused, fmt.Sprintf("%s is told to ask on a new connection (421); an ORIGIN frame would spare it that.", f.who())
	case f.status == 421:
		return verdictRefused, fmt.Sprintf("%s is told to ask on a new connection (421); the ORIGIN frame spares the others that.", f.who())
	case f.own == 0:
		return verdictUnchecked, fmt.Sprintf("%s is answered %d; there is no answer on a connection of its own to compare that with.", f.who(), f.status)
	case f.status != f.own:
		return verdictWrong, fmt.Sprintf("Suspected: the wrong page. %s is answered %d, and %d on a connection of its own; misdirected would refuse it.", f.who(), f.status, f.own)
	default:
		return verdictShared, fmt.Sprintf("%s gets the page of %s from a connection opened for %s: fine if both are to be served alike.", f.who(), f.second, f.first)
	}
}

// who names the clients that coalesce.
func (f found) who() string {
	switch {
	case f.obeying() && f.ignoring():
		return "A client that coalesces"
	case f.obeying():
		return "A client that obeys ORIGIN frames (Firefox)"
	default:
		return "A client that ignores ORIGIN frames (Chromium)"
	}
}

// trouble tells whether a client gets a wrong answer.
func (v verdict) trouble() bool {
	return v == verdictWrong || v == verdictBroken || v == verdictContradicted
}
