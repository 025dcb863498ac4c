package authority

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/matcher"
)

// A condition is what a route's matchers ask of the host of a TLS request.
type condition struct {
	sets []hostSet
	// never: no TLS request can match.
	never bool
	// unknown: a host pattern depends on the request.
	unknown bool
}

// A hostSet is a matcher set as far as it is about hosts.
type hostSet struct {
	patterns []string // nil is any host
	certain  bool     // there is no other matcher
}

// hostCondition reads the matchers of a provisioned route; repl knows what needs
// no request.
func hostCondition(route *caddyhttp.Route, repl *caddy.Replacer) (cond condition) {
	if len(route.MatcherSets) == 0 {
		cond.sets = []hostSet{{certain: true}}
		return cond
	}
	for _, matchers := range route.MatcherSets {
		set, possible := hostSet{certain: true}, true
		for _, m := range matchers {
			if hosts, ok := matcher.As[caddyhttp.MatchHost](m); ok {
				possible = possible && len(hosts) > 0
				cond.unknown = set.addHosts(hosts, repl) || cond.unknown
			} else {
				protocol, _ := matcher.As[caddyhttp.MatchProtocol](m)
				possible = possible && protocol != "http"
				set.certain = set.certain && protocol == "https"
			}
		}
		if possible {
			cond.sets = append(cond.sets, set)
		}
	}
	cond.never = len(cond.sets) == 0
	return cond
}

// addHosts reads the hosts of a provisioned matcher: they are A-labels already,
// and placeholders that need no request are filled in, as auto-HTTPS does. It
// reports whether one is left; the set then stands for any host.
func (s *hostSet) addHosts(hosts caddyhttp.MatchHost, repl *caddy.Replacer) (unknown bool) {
	s.patterns = make([]string, 0, len(hosts))
	for _, host := range hosts {
		host = repl.ReplaceKnown(host, "")
		if strings.Contains(host, "{") {
			*s = hostSet{}
			return true
		}
		s.patterns = append(s.patterns, strings.ToLower(host))
	}
	return false
}

// addTo lets the newest entry of t match under the condition.
func (cond *condition) addTo(t *table) {
	for _, set := range cond.sets {
		if set.patterns == nil {
			t.addAny(set.certain)
		}
		for _, pattern := range set.patterns {
			t.add(pattern, set.certain)
		}
	}
}

// addNamesTo adds the patterns to t's newest entry, not the sets for any host;
// hosts that depend on the request may be any.
func (cond *condition) addNamesTo(t *table) {
	if cond.unknown {
		t.addAny(false)
	}
	for _, pattern := range cond.names() {
		t.add(pattern, false)
	}
}

// asksForHost tells whether the condition is another one for some host than for
// others.
func (cond *condition) asksForHost() bool {
	return cond.unknown || slices.ContainsFunc(cond.sets, func(set hostSet) bool { return set.patterns != nil })
}

// own returns a table of the patterns alone if there is a set for any host.
func (cond *condition) own() *table {
	if !slices.ContainsFunc(cond.sets, func(set hostSet) bool { return set.patterns == nil }) {
		return nil
	}
	t := new(table)
	t.addEntry(false)
	for _, pattern := range cond.names() {
		t.add(pattern, true)
	}
	return t
}

// names returns the patterns of the sets that have any.
func (cond *condition) names() (names []string) {
	for _, set := range cond.sets {
		names = append(names, set.patterns...)
	}
	return names
}
