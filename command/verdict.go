package command

import (
	"fmt"
	"strings"
)

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
	verdictWrong        verdict = "wrong"        // it gets another page
	verdictBroken       verdict = "broken"       // it gets none

	verdictNotComparable verdict = "not_comparable" // it gets a page that says nothing
	verdictUnchecked     verdict = "unchecked"
)

// found are the facts about one pair: the first host's connection, and the
// second's request on it.
type found struct {
	firstHost, secondHost string // for people

	h2          bool // the connection speaks HTTP/2
	protocol    string
	once        bool // the server ends connections with GOAWAY at their first answer
	sameAddress bool // an address and the port in common
	covered     bool // the certificate of the connection is valid for the second
	origin      originSet
	status      int   // of the answer on the connection
	err         error // or why there is none
	own         int   // status on a connection of its own; 0: none

	page      *page      // what was answered; nil: it was not asked for
	result    comparison // of the page with its own; empty: there is nothing to compare
	resultWhy string
	ofFirst   bool // it is another page: that of the first
}

// answered tells whether there is an answer on the connection.
func (f found) answered() bool { return f.h2 && !f.once && f.err == nil }

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
		return verdictNotTried, fmt.Sprintf("Clients will not try: %s speaks %s, and only HTTP/2 connections are shared.", f.firstHost, f.protocol)
	case f.once:
		return verdictNotTried, fmt.Sprintf("Clients will not try: the server ends each connection for %s with GOAWAY at its first answer.", f.firstHost)
	case !f.obeying() && !f.ignoring():
		why := "the two have no address and port in common, and no ORIGIN frame lists " + f.secondHost
		if !f.covered {
			why = "the certificate does not cover " + f.secondHost
		} else if f.sameAddress {
			why = "the ORIGIN frame does not list " + f.secondHost
		}
		text := fmt.Sprintf("Clients will not try: %s.", why)
		if f.err == nil && f.status != 421 && !f.covered {
			text += fmt.Sprintf(" Whoever does all the same is answered %d; misdirected would refuse it.", f.status)
		}
		return verdictNotTried, text
	case f.err != nil:
		return verdictBroken, fmt.Sprintf("%s gets no answer; a 421 would tell it to ask on a new connection.", f.who())
	case f.status == 421:
		return f.judgeRefusal()
	case f.own == 0:
		return verdictUnchecked, fmt.Sprintf("%s is answered %d; there is no answer on a connection of its own to compare that with.", f.who(), f.status)
	default:
		return f.judgePage()
	}
}

// judgeRefusal says what a 421 means.
func (f found) judgeRefusal() (verdict, string) {
	switch {
	case f.own == 421:
		return verdictBroken, fmt.Sprintf("%s is refused even on a connection of its own: no client gets an answer.", f.secondHost)
	case f.origin == originListed:
		return verdictContradicted, fmt.Sprintf("The ORIGIN frame lists %s, which is then refused: Firefox tries in vain on each new connection. Take it off the list.", f.secondHost)
	case f.origin == originAbsent:
		return verdictRefused, fmt.Sprintf("%s is told to ask on a new connection (421); an ORIGIN frame would spare it that.", f.who())
	default:
		return verdictRefused, fmt.Sprintf("%s is told to ask on a new connection (421); the ORIGIN frame spares the others that.", f.who())
	}
}

// judgePage says what a page means.
func (f found) judgePage() (verdict, string) {
	switch f.result {
	case pageSame:
		return verdictShared, fmt.Sprintf("%s gets the same page of %s on a connection opened for %s: fine if both are to be served alike.", f.who(), f.secondHost, f.firstHost)
	case pageAnother:
		what := "another page than on a connection of its own"
		if f.ofFirst {
			what = "the page of " + f.firstHost
		}
		return verdictWrong, fmt.Sprintf("Another page: %s asks for %s and gets %s; misdirected would refuse it.", lower(f.who()), f.secondHost, what)
	default:
		return verdictNotComparable, fmt.Sprintf("Not comparable: %s.", f.resultWhy)
	}
}

// lower is text for the middle of a sentence.
func lower(text string) string { return strings.ToLower(text[:1]) + text[1:] }

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
