package authority

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A site is a top-level route that TLS requests can reach. The hosts that a
// route answers are those of its own host matchers; nested ones make no sites.
type site struct {
	route    int      // index in the list
	patterns []string // in lower case; nil is a catch-all
	// unknown: a host matcher has a placeholder that only a request can fill.
	unknown bool
	// own holds the patterns where a matcher set for any host stands beside them.
	own  *table
	name string
}

// names tells whether the site is more than a catch-all for a host that it can
// run for.
func (s *site) names(host string) bool {
	if s.own == nil {
		return s.patterns != nil || s.unknown
	}
	_, ok := s.own.first(host)
	return ok
}

// routes says which routes of a list can run for a host, in order.
type routes struct {
	sites  []site
	byHost table
}

func newRoutes(list caddyhttp.RouteList) *routes {
	rs := new(routes)
	for i := range list {
		cond := hostCondition(&list[i])
		if !cond.never {
			// Where an earlier route of its group runs, a route does not end the search.
			rs.add(i, &cond, list[i].Terminal && list[i].Group == "")
		}
	}
	return rs
}

// add adds a route, by its index, behind all others; ends: no other runs behind it.
func (rs *routes) add(route int, cond *condition, ends bool) {
	rs.byHost.addEntry(ends)
	cond.addTo(&rs.byHost)
	s := site{route: route, patterns: cond.names(), unknown: cond.unknown}
	switch {
	case s.unknown:
		s.name = fmt.Sprintf("route %d, whose hosts depend on the request", route)
	case len(s.patterns) > 0:
		s.name = strings.Join(s.patterns, ", ")
		if s.own = cond.own(); s.own != nil {
			s.name += ", and others"
		}
	default:
		s.name = fmt.Sprintf("catch-all (route %d)", route)
	}
	rs.sites = append(rs.sites, s)
}

// same tells whether the same routes can run for both names. For sites of the
// Caddyfile that is one route; routes of hand-written JSON may run in a row,
// and then all of them must be the same: the first one alone, some headers for
// everyone say, would make one site of all.
func (rs *routes) same(a, b string) bool {
	ca, cb := rs.byHost.find(a), rs.byHost.find(b)
	for {
		ra, moreA := ca.next()
		rb, moreB := cb.next()
		if moreA != moreB || ra != rb {
			return false
		}
		if !moreA {
			return true
		}
		if rs.sites[ra.index].unknown {
			return false
		}
	}
}

// of returns the site of a host: the first route with a host matcher for it,
// else the first catch-all; nil if no route can run.
func (rs *routes) of(host string) *site {
	var catchAll *site
	c := rs.byHost.find(host)
	for r, ok := c.next(); ok; r, ok = c.next() {
		s := &rs.sites[r.index]
		if s.names(host) {
			return s
		}
		if catchAll == nil {
			catchAll = s
		}
	}
	return catchAll
}

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

func hostCondition(route *caddyhttp.Route) (cond condition) {
	if len(route.MatcherSets) == 0 {
		cond.sets = []hostSet{{certain: true}}
		return cond
	}
	repl := caddy.NewReplacer()
	for _, matchers := range route.MatcherSets {
		set, possible := hostSet{certain: true}, true
		for _, matcher := range matchers {
			switch m := matcher.(type) {
			case *caddyhttp.MatchHost:
				possible = possible && len(*m) > 0
				cond.unknown = set.addHosts(*m, repl) || cond.unknown
			case caddyhttp.MatchHost: // in auto-HTTPS redirects
				possible = possible && len(m) > 0
				cond.unknown = set.addHosts(m, repl) || cond.unknown
			case *caddyhttp.MatchProtocol:
				possible = possible && *m != "http"
				set.certain = set.certain && *m == "https"
			case caddyhttp.MatchProtocol:
				possible = possible && m != "http"
				set.certain = set.certain && m == "https"
			default:
				set.certain = false
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

// table returns a table with the condition as its only entry.
func (cond *condition) table() *table {
	t := new(table)
	t.addEntry(false)
	cond.addTo(t)
	return t
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
