package authority

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// A TLS policy may look at more than the server name. Then a name can have one policy
// for some clients and another, or none, for others. This file says when two names
// fare alike all the same.

// A looks is what matchers look at.
type looks uint8

const (
	atAddresses looks = iota // of the connection, alone
	atUnknown                // something else, which is no server name as far as is known
	atNames
)

// looksOf returns what matchers look at; a list of names, if it may stand beside
// them, aside.
func looksOf(matchers caddy.ModuleMap, besideSNI bool) (most looks) {
	for name, raw := range matchers {
		look := atUnknown
		switch name {
		case "remote_ip", "local_ip":
			look = atAddresses
		case "sni_regexp":
			look = atNames
		case "sni":
			look = atNames
			if besideSNI {
				look = atAddresses
			}
		case "not":
			look = atAddresses
			var sets []caddy.ModuleMap
			if err := json.Unmarshal(raw, &sets); err != nil {
				look = atNames
			}
			for _, set := range sets {
				look = max(look, looksOf(set, false))
			}
		}
		most = max(most, look)
	}
	return most
}

// looksFurther tells whether matchers look at more than a list of names.
func looksFurther(matchers caddy.ModuleMap) bool {
	_, bySNI := matchers["sni"]
	return len(matchers) > 1 || len(matchers) == 1 && !bySNI
}

// byNames are the matchers that look at the server name, byAddresses those that look at
// the addresses of a connection.
var (
	byNames     = []string{"sni", "sni_regexp"}
	byAddresses = []string{"remote_ip", "local_ip"}
)

// onlyOf tells whether all matchers, those inside `not` too, are among some.
func onlyOf(some []string, matchers caddy.ModuleMap) bool {
	for name, raw := range matchers {
		if name != "not" {
			if !slices.Contains(some, name) {
				return false
			}
			continue
		}
		var sets []caddy.ModuleMap
		if err := json.Unmarshal(raw, &sets); err != nil {
			return false
		}
		for _, set := range sets {
			if !onlyOf(some, set) {
				return false
			}
		}
	}
	return true
}

// compare follows the policies for two server names. One: a client that gets a
// policy for sni gets the same one for other, since both find the same, and what else
// these look at are the client's addresses. Lost: a connection for other may not come
// about, because a policy drops it or none is there for it, where one for sni does.
// Example: a policy drops what asks for vault.test from outside. Then a connection
// without SNI, or for another name, is no way in.
func (ps *policies) compare(sni, other string) (one, lost bool) {
	var a, b cursor
	ps.find(&a, sni)
	ps.find(&b, other)
	one = true
	alike, certain := true, false
	for {
		r, found := b.next()
		if alike {
			first, ok := a.next()
			alike = ok == found && first == r
			if found {
				alike = alike && ps.list[r.index].looks != atNames
				one = one && ps.list[r.index].looks == atAddresses
			}
			one = one && alike
		}
		if !found {
			return one, !alike && !certain
		}
		certain = r.certain
		if !alike && ps.list[r.index].drop {
			return false, true
		}
	}
}
