package authority

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A site is a route that TLS requests can reach. Only routes of the top level
// are what an operator calls a site: the hosts that such a route answers are
// those of its own host matchers.
type site struct {
	route    int      // index in the list
	patterns []string // in lower case; nil is a catch-all
	// unknown: a host matcher has a placeholder that only a request can fill.
	unknown bool
	// own holds the patterns where a matcher set for any host stands beside them.
	own  *table
	name string // of a site of the top level

	// terminal: where the route runs, nothing behind it does.
	terminal bool
	// group is the number of the route's group, 0 if it has none. Only the first
	// route of a group that matches runs.
	group int32
	// alone: no other list has this group. Group names are those of a whole
	// request: a route of the same group in another list may have run before.
	alone bool
	// later: the route is an error route, and does not run for [earlyErrors].
	later bool
	// steps are what the route does, in order.
	steps []step
	// contents sums up the steps and all that is below them.
	contents contents
}

// A step is one handler of a route, or the routes that a handler has.
type step struct {
	handler caddyhttp.MiddlewareHandler
	guard   *Guard  // if the handler is one
	routes  *routes // if the handler has any
	// aside: the routes run on an error or for a response only.
	aside bool
	// answers: the handler may answer the request, so that nothing behind it runs.
	answers bool
}

// contents are what is to be found in routes and below them.
type contents struct {
	handlers uint64 // a bit for each module, as [tree] numbers them
	scopes   uint8  // those of guards, as scopeBit has it
	// hosts: some route asks for a host, so that two names may part here.
	hosts bool
}

func (c *contents) add(other contents) {
	c.handlers |= other.handlers
	c.scopes |= other.scopes
	c.hosts = c.hosts || other.hosts
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

// routes are a list of routes, and say which of them can run for a host, in
// order. Lists form a tree: a route has steps, and a step may have routes again.
type routes struct {
	sites    []site
	byHost   table
	contents contents
	// unknown: the hosts of some route depend on the request.
	unknown bool
	// named: it is a named route, which several others may lead to. These may be named
	// again, so that the ways through them are many more than the routes: whoever
	// follows them all looks at each named route once.
	named bool
}

// newRoutes reads a list of the top level without the routes' handlers.
func newRoutes(list caddyhttp.RouteList) *routes {
	rs := new(routes)
	repl := caddy.NewReplacer()
	for i := range list {
		if cond := hostCondition(&list[i], repl); !cond.never {
			rs.add(i, &list[i], &cond).describe(&cond)
		}
	}
	return rs
}

// add adds a route, by its index, behind all others.
func (rs *routes) add(index int, route *caddyhttp.Route, cond *condition) *site {
	// Where an earlier route of its group runs, a route does not end the search.
	rs.byHost.addEntry(route.Terminal && route.Group == "")
	cond.addTo(&rs.byHost)
	rs.unknown = rs.unknown || cond.unknown
	rs.contents.hosts = rs.contents.hosts || cond.asksForHost()
	rs.sites = append(rs.sites, site{route: index, unknown: cond.unknown, terminal: route.Terminal})
	return &rs.sites[len(rs.sites)-1]
}

// describe makes a site of a route of the top level.
func (s *site) describe(cond *condition) {
	s.patterns = cond.names()
	switch {
	case s.unknown:
		s.name = fmt.Sprintf("route %d, whose hosts depend on the request", s.route)
	case len(s.patterns) > 0:
		s.name = strings.Join(s.patterns[:min(len(s.patterns), mostNamed)], ", ")
		if more := len(s.patterns) - mostNamed; more > 0 {
			s.name += fmt.Sprintf(" and %d more", more)
		}
		if s.own = cond.own(); s.own != nil {
			s.name += ", and others"
		}
	default:
		s.name = fmt.Sprintf("catch-all (route %d)", s.route)
	}
}

// same tells whether the same routes can run for both names. For sites of the
// Caddyfile that is one route; routes of hand-written JSON may run in a row,
// and then all of them must be the same: the first one alone, some headers for
// everyone say, would make one site of all.
func (rs *routes) same(a, b string) bool {
	if a == b && !rs.unknown {
		return true
	}
	var ca, cb cursor
	rs.byHost.find(&ca, a)
	rs.byHost.find(&cb, b)
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

// A comparison is one of two names, by the routes that can run for them.
type comparison struct {
	a, b string
	met  map[*routes]bool // the named ones
}

// same is [routes.same], for the routes below these as well. It descends only into
// routes that can run for the names and that ask for a host somewhere.
func (by *comparison) same(rs *routes) bool {
	if !rs.contents.hosts || by.met[rs] {
		return true
	}
	if rs.named {
		if by.met == nil {
			by.met = make(map[*routes]bool)
		}
		by.met[rs] = true
	}
	if !rs.same(by.a, by.b) {
		return false
	}
	var c cursor
	rs.byHost.find(&c, by.a)
	for r, ok := c.next(); ok; r, ok = c.next() {
		s := &rs.sites[r.index]
		if !s.contents.hosts {
			continue
		}
		for i := range s.steps {
			if below := s.steps[i].routes; below != nil && !by.same(below) {
				return false
			}
		}
	}
	return true
}

// A chain holds the lists of routes that something is in: a named route may
// lead back to one of them.
type chain struct {
	routes *routes
	above  *chain
}

func (c *chain) has(rs *routes) bool {
	for ; c != nil; c = c.above {
		if c.routes == rs {
			return true
		}
	}
	return false
}

// of returns the site of a host: the first route with a host matcher for it,
// else the first catch-all; nil if no route can run.
func (rs *routes) of(host string) *site {
	var catchAll *site
	var c cursor
	rs.byHost.find(&c, host)
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
