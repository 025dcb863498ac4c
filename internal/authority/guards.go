package authority

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A Guard is what a misdirected handler makes known of itself.
type Guard struct {
	// Accepts says whether a request for host passes on a connection with
	// that SNI, for a peer that is no trusted gateway, and as if it were not
	// only to report. Both names are canonical; sni may be empty. All that
	// counts of an SNI is its TLS policy, its certificate, whether it equals
	// the host and whether Share has both: origin sets are kept by that.
	Accepts func(s *Snapshot, sni, host string) bool
	// BySite: the site of the SNI counts as well, in that a host of another
	// site passes only if Share has both.
	BySite bool
	// OwnOnly: no host but the SNI itself passes unless Share has both.
	OwnOnly bool
	// Lenient names the options by which it may let requests pass that it
	// would otherwise refuse, whatever their TLS policy.
	Lenient []string
	// Share lists its groups of names.
	Share [][]string
	// Explain says what it does with a request for host on a connection with
	// that SNI, both as they would be sent, by a peer that is no trusted gateway.
	Explain func(s *Snapshot, sni, host string) Verdict
}

// A GuardHandler is an HTTP handler that is a guard.
type GuardHandler interface {
	caddyhttp.MiddlewareHandler
	Guard() *Guard
}

// guards says which guards can run for a host.
type guards struct {
	// Guards in the server's routes, and in its error routes.
	main, errors routeGuards
	// anywhere: they stand in some handler with routes of its own, so that they
	// may run for every host.
	anywhere []*Guard
	// nested are all routes below the top level.
	nested *routes
}

// routeGuards are the guards in top-level routes, by the routes' index.
type routeGuards struct {
	routes *routes
	places [][]place
	// answers tells of each route whether it may answer.
	answers []bool
}

// A place is one where a guard stands; one guard can stand in several (a named
// route).
type place struct {
	guard *Guard
	way   way
	// certain: the matchers on the way ask for nothing but the host, and no
	// handler on the way may answer.
	certain bool
}

// A way leads from a top-level route to a place.
type way struct {
	inner []*table // host matchers below the top level, which must match too
	// before are the host matchers of routes that stand in front of one on the way,
	// in its list and group: only the first of a group that matches runs.
	before []*table
}

// newGuards looks for guards in the routes of a server; registered are all that
// there are.
func newGuards(srv *caddyhttp.Server, main *routes, registered []*Guard) *guards {
	w := guardWalk{named: srv.NamedRoutes, nested: new(routes), groups: make(map[string]int), noTLS: make(map[*Guard]bool)}
	gs := &guards{main: w.routeGuards(srv.Routes, main), nested: w.nested}
	if srv.Errors != nil {
		gs.errors = w.routeGuards(srv.Errors.Routes, newRoutes(srv.Errors.Routes))
	}
	placed := w.noTLS
	for _, g := range gs.all() {
		placed[g] = true
	}
	for _, g := range registered {
		if !placed[g] {
			gs.anywhere = append(gs.anywhere, g)
		}
	}
	return gs
}

// all returns every guard once.
func (gs *guards) all() []*Guard {
	list := slices.Clone(gs.anywhere)
	seen := make(map[*Guard]bool)
	for _, rg := range []routeGuards{gs.main, gs.errors} {
		for _, places := range rg.places {
			for _, p := range places {
				if !seen[p.guard] {
					seen[p.guard] = true
					list = append(list, p.guard)
				}
			}
		}
	}
	return list
}

// A guardWalk walks through all routes of a server.
type guardWalk struct {
	named  map[string]*caddyhttp.Route
	nested *routes
	noTLS  map[*Guard]bool // no TLS request gets there
	lists  int             // so far
	// groups has the list in which a group's name came first. The names are those of
	// a whole request: in other lists its routes may be skipped.
	groups map[string]int

	// In a route of the top level:
	active   []string // the named routes we are in
	found    []place
	answered bool // a handler so far may have answered
}

// routeGuards walks through a list of the top level.
func (w *guardWalk) routeGuards(list caddyhttp.RouteList, rs *routes) (rg routeGuards) {
	rg.routes = rs
	l := w.enter()
	for i := range list {
		if n := len(rg.places); n == len(rs.sites) || rs.sites[n].route != i {
			w.withoutTLS(&list[i])
			continue
		}
		w.found, w.answered = nil, false
		route := &list[i]
		before, alone := []*table(nil), true
		if route.Group != "" {
			cond := hostCondition(route)
			before, alone = l.before(route.Group, cond.table())
		}
		w.handlers(route, way{before: before}, alone)
		rg.places, rg.answers = append(rg.places, w.found), append(rg.answers, w.answered)
	}
	return rg
}

// A listWalk walks through one list of routes.
type listWalk struct {
	*guardWalk
	id     int
	groups map[string][]*table // host matchers so far
}

func (w *guardWalk) enter() *listWalk {
	w.lists++
	return &listWalk{w, w.lists, make(map[string][]*table)}
}

// before returns the host matchers of the routes of a group that stand in front of
// the one with these; alone: no list in front of this one has such a group.
func (l *listWalk) before(group string, matching *table) (before []*table, alone bool) {
	if group == "" {
		return nil, true
	}
	if l.guardWalk.groups[group] == 0 {
		l.guardWalk.groups[group] = l.id
	}
	before = l.groups[group]
	l.groups[group] = append(slices.Clip(before), matching)
	return before, l.guardWalk.groups[group] == l.id
}

// answering are handlers that answer by themselves. Others may do so too, but
// those that stand in front of a guard are more likely to refuse requests.
var answering = []caddy.ModuleID{
	"http.handlers.acme_server", "http.handlers.file_server", "http.handlers.metrics", "http.handlers.reverse_proxy", "http.handlers.static_response",
}

// handlers visits a route's handlers, which are reached on that way; certain as
// in [place].
func (w *guardWalk) handlers(route *caddyhttp.Route, way way, certain bool) {
	for _, handler := range route.Handlers {
		switch h := handler.(type) {
		case GuardHandler:
			w.found = append(w.found, place{h.Guard(), way, certain && !w.answered})
		case *caddyhttp.Subroute:
			w.routes(h.Routes, way, certain)
			if h.Errors != nil {
				w.routes(h.Errors.Routes, way, false)
			}
		case *caddyhttp.Invoke:
			if named, ok := w.named[h.Name]; ok && !slices.Contains(w.active, h.Name) {
				w.active = append(w.active, h.Name)
				w.routes(caddyhttp.RouteList{*named}, way, certain)
				w.active = w.active[:len(w.active)-1]
			}
		case caddy.Module:
			w.answered = w.answered || slices.Contains(answering, h.CaddyModule().ID)
		}
	}
}

func (w *guardWalk) routes(list caddyhttp.RouteList, outer way, certain bool) {
	l := w.enter()
	answered := w.answered
	var groups []string // of routes that may have answered
	for i := range list {
		route := &list[i]
		cond := hostCondition(route)
		if cond.never {
			w.withoutTLS(route)
			continue
		}
		w.nested.add(i, &cond, false)
		matching := cond.table()
		before, alone := l.before(route.Group, matching)
		inner := way{append(slices.Clip(outer.inner), matching), append(slices.Clip(outer.before), before...)}
		// Where another route of its group has answered, this one does not run.
		w.answered = answered || slices.ContainsFunc(groups, func(group string) bool { return group == "" || group != route.Group })
		w.handlers(route, inner, certain && alone)
		if w.answered {
			groups = append(groups, route.Group)
		}
	}
	w.answered = answered || len(groups) > 0
}

// withoutTLS visits a route that no TLS request can match.
func (w *guardWalk) withoutTLS(route *caddyhttp.Route) {
	for _, handler := range route.Handlers {
		switch h := handler.(type) {
		case GuardHandler:
			w.noTLS[h.Guard()] = true
		case *caddyhttp.Subroute:
			for i := range h.Routes {
				w.withoutTLS(&h.Routes[i])
			}
		}
	}
}

// each calls f for each guard that can run for host, until f returns false;
// certain: it runs for every request to that host, whatever else it asks for.
func (gs *guards) each(host string, f func(g *Guard, certain bool) bool) {
	for _, g := range gs.anywhere {
		if !f(g, false) {
			return
		}
	}
	if gs.main.each(host, f) && gs.errors.routes != nil {
		gs.errors.each(host, func(g *Guard, _ bool) bool { return f(g, false) })
	}
}

func (rg *routeGuards) each(host string, f func(g *Guard, certain bool) bool) bool {
	answered := false
	c := rg.routes.byHost.find(host)
	for r, ok := c.next(); ok; r, ok = c.next() {
		for i := range rg.places[r.index] {
			p := &rg.places[r.index][i]
			if can, certain := p.runsFor(host); can && !f(p.guard, certain && r.certain && !answered) {
				return false
			}
		}
		answered = answered || rg.answers[r.index]
	}
	return true
}

// runsFor tells whether the matchers below the top level, and other routes of the
// groups on the way, let a request for host reach the guard.
func (p *place) runsFor(host string) (can, certain bool) {
	certain = p.certain
	for _, matching := range p.way.before {
		if r, ok := matching.first(host); ok {
			if r.certain {
				return false, false
			}
			certain = false
		}
	}
	for _, matching := range p.way.inner {
		r, ok := matching.first(host)
		if !ok {
			return false, false
		}
		certain = certain && r.certain
	}
	return true, certain
}
