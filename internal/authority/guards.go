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
	inner []*table // host matchers below the top level that must match too
	// certain: the matchers on the way ask for nothing but the host, and no
	// handler on the way may answer.
	certain bool
}

// newGuards looks for guards in the routes of a server; registered are all that
// there are.
func newGuards(srv *caddyhttp.Server, main *routes, registered []*Guard) *guards {
	gs := &guards{main: newRouteGuards(srv, srv.Routes, main)}
	if srv.Errors != nil {
		gs.errors = newRouteGuards(srv, srv.Errors.Routes, newRoutes(srv.Errors.Routes))
	}
	placed := make(map[*Guard]bool)
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

func newRouteGuards(srv *caddyhttp.Server, list caddyhttp.RouteList, rs *routes) routeGuards {
	rg := routeGuards{rs, make([][]place, len(rs.sites)), make([]bool, len(rs.sites))}
	for i, site := range rs.sites {
		w := guardWalk{named: srv.NamedRoutes}
		route := &list[site.route]
		w.handlers(route, nil, route.Group == "")
		rg.places[i], rg.answers[i] = w.found, w.answered
	}
	return rg
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

type guardWalk struct {
	named    map[string]*caddyhttp.Route
	active   []string // the named routes we are in
	found    []place
	answered bool // a handler so far may have answered
}

// answering are handlers that answer by themselves. Others may do so too, but
// those that stand in front of a guard are more likely to refuse requests.
var answering = []caddy.ModuleID{
	"http.handlers.acme_server", "http.handlers.file_server", "http.handlers.metrics", "http.handlers.reverse_proxy", "http.handlers.static_response",
}

// handlers visits a route's handlers, which are reached through inner; certain
// as in [place].
func (w *guardWalk) handlers(route *caddyhttp.Route, inner []*table, certain bool) {
	for _, handler := range route.Handlers {
		switch h := handler.(type) {
		case GuardHandler:
			w.found = append(w.found, place{h.Guard(), inner, certain && !w.answered})
		case *caddyhttp.Subroute:
			w.routes(h.Routes, inner, certain)
			if h.Errors != nil {
				w.routes(h.Errors.Routes, inner, false)
			}
		case *caddyhttp.Invoke:
			if named, ok := w.named[h.Name]; ok && !slices.Contains(w.active, h.Name) {
				w.active = append(w.active, h.Name)
				w.routes(caddyhttp.RouteList{*named}, inner, certain)
				w.active = w.active[:len(w.active)-1]
			}
		case caddy.Module:
			w.answered = w.answered || slices.Contains(answering, h.CaddyModule().ID)
		}
	}
}

func (w *guardWalk) routes(list caddyhttp.RouteList, inner []*table, certain bool) {
	for i := range list {
		cond := hostCondition(&list[i])
		if cond.never {
			continue
		}
		matching := new(table)
		matching.addEntry(false)
		cond.addTo(matching)
		// of a group only the first route that matches runs
		w.handlers(&list[i], append(inner[:len(inner):len(inner)], matching), certain && list[i].Group == "")
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

// runsFor tells whether the matchers below the top level let a request for host
// reach the guard.
func (p *place) runsFor(host string) (can, certain bool) {
	certain = p.certain
	for _, matching := range p.inner {
		c := matching.find(host)
		r, ok := c.next()
		if !ok {
			return false, false
		}
		certain = certain && r.certain
	}
	return true, certain
}
