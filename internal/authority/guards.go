package authority

import (
	"slices"

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
	// Lenient names the options by which it may let requests pass that it
	// would otherwise refuse, whatever their TLS policy.
	Lenient []string
	// Share lists its groups of names.
	Share [][]string
}

// A GuardHandler is an HTTP handler that is a guard.
type GuardHandler interface {
	caddyhttp.MiddlewareHandler
	Guard() *Guard
}

// guards says which guards can run for a host.
type guards struct {
	places []place
	byHost table // by the outermost routes with a host matcher
}

// A place is one where a guard stands; one guard can stand in several (a named
// route).
type place struct {
	guard *Guard
	inner []*table // further host matchers that must match, from the outside in
	// certain: the matchers on the way ask for nothing but the host.
	certain bool
}

// newGuards looks for guards in the routes of a server. A guard of registered
// that is not found there stands in some handler with routes of its own, and
// so may run for every host.
func newGuards(srv *caddyhttp.Server, registered []*Guard) *guards {
	gs := new(guards)
	w := guardWalk{guards: gs, named: srv.NamedRoutes}
	w.routes(srv.Routes, nil, true)
	if srv.Errors != nil {
		w.routes(srv.Errors.Routes, nil, false)
	}
	for _, g := range registered {
		if !slices.ContainsFunc(gs.places, func(p place) bool { return p.guard == g }) {
			w.place(g, nil, false)
		}
	}
	return gs
}

type guardWalk struct {
	guards *guards
	named  map[string]*caddyhttp.Route
	active []string // the named routes we are in
}

// routes visits list, which is reached through the conditions in path; certain
// as in [place].
func (w *guardWalk) routes(list caddyhttp.RouteList, path []condition, certain bool) {
	for i := range list {
		route := &list[i]
		cond := hostCondition(route)
		if cond.never {
			continue
		}
		path := append(path[:len(path):len(path)], cond)
		// of a group only the first route that matches runs
		certain := certain && route.Group == ""
		for _, handler := range route.Handlers {
			switch h := handler.(type) {
			case GuardHandler:
				w.place(h.Guard(), path, certain)
			case *caddyhttp.Subroute:
				w.routes(h.Routes, path, certain)
				if h.Errors != nil {
					w.routes(h.Errors.Routes, path, false)
				}
			case *caddyhttp.Invoke:
				if named, ok := w.named[h.Name]; ok && !slices.Contains(w.active, h.Name) {
					w.active = append(w.active, h.Name)
					w.routes(caddyhttp.RouteList{*named}, path, certain)
					w.active = w.active[:len(w.active)-1]
				}
			}
		}
	}
}

func (w *guardWalk) place(g *Guard, path []condition, certain bool) {
	p := place{guard: g, certain: certain}
	w.guards.byHost.addEntry(false)
	outermost := true
	for _, cond := range path {
		switch {
		case cond.names() == nil:
			p.certain = p.certain && slices.ContainsFunc(cond.sets, func(s hostSet) bool { return s.certain })
		case outermost:
			cond.addTo(&w.guards.byHost)
			outermost = false
		default:
			inner := new(table)
			inner.addEntry(false)
			cond.addTo(inner)
			p.inner = append(p.inner, inner)
		}
	}
	if outermost {
		w.guards.byHost.addAny(true)
	}
	w.guards.places = append(w.guards.places, p)
}

// each calls f for each guard that can run for host, until f returns false;
// certain: it runs for every request to that host, whatever else it asks for.
func (gs *guards) each(host string, f func(g *Guard, certain bool) bool) {
	c := gs.byHost.find(host)
next:
	for r, ok := c.next(); ok; r, ok = c.next() {
		p := &gs.places[r.index]
		certain := r.certain && p.certain
		for _, inner := range p.inner {
			c := inner.find(host)
			r, ok := c.next()
			if !ok {
				continue next
			}
			certain = certain && r.certain
		}
		if !f(p.guard, certain) {
			return
		}
	}
}
