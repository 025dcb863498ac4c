package authority

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A tree reads the routes of a server with all that is below them. Each list is
// read once, so that the work grows with the configuration and no faster.
type tree struct {
	server *caddyhttp.Server
	repl   *caddy.Replacer
	// named are the lists of the named routes met so far. A named route can lead
	// back to itself, so its list is in here before its handlers are read.
	named map[string]*routes
	// groups numbers the groups by name, and has the list where each came first.
	groups map[string]*group
	// modules numbers the modules of handlers, as bits. All from the 64th on share
	// one: a bit may stand for too much, but never for too little.
	modules map[caddy.ModuleID]uint64
	// patterns is as in [guards].
	patterns table
	// guards are those that TLS requests can reach, in order. They are true in
	// seen; those that only plain HTTP reaches are false.
	guards []*Guard
	seen   map[*Guard]bool
	// plain are the named routes that plain HTTP gets to, so far.
	plain   map[string]bool
	spelled spelled
	// errors: what is read are error routes.
	errors bool
}

type group struct {
	number int32
	first  *routes
}

func newTree(srv *caddyhttp.Server) *tree {
	t := &tree{
		server:  srv,
		repl:    caddy.NewReplacer(),
		named:   make(map[string]*routes),
		groups:  make(map[string]*group),
		modules: make(map[caddy.ModuleID]uint64),
		seen:    make(map[*Guard]bool),
		plain:   make(map[string]bool),
	}
	t.patterns.addEntry(false)
	return t
}

// top reads a list of the top level, whose routes are sites.
func (t *tree) top(list caddyhttp.RouteList) *routes {
	rs := new(routes)
	t.read(rs, list, true)
	return rs
}

// below reads any other list.
func (t *tree) below(list caddyhttp.RouteList) *routes {
	rs := new(routes)
	t.read(rs, list, false)
	return rs
}

func (t *tree) read(rs *routes, list caddyhttp.RouteList, top bool) {
	for i := range list {
		route := &list[i]
		cond := hostCondition(route, t.repl)
		if cond.never {
			t.withoutTLS(route)
			continue
		}
		cond.addNamesTo(&t.patterns)
		t.spelled.byMatchers(route.MatcherSets, false)
		s := rs.add(i, route, &cond)
		s.later = t.errors && later(route)
		if top {
			s.describe(&cond)
		}
		if route.Group != "" {
			s.group, s.alone = t.group(route.Group, rs)
		}
		for _, handler := range route.Handlers {
			s.steps = append(s.steps, t.steps(handler)...)
		}
		for i := range s.steps {
			s.contents.add(t.contents(&s.steps[i]))
		}
		rs.contents.add(s.contents)
	}
}

// group returns the number of a group, and whether this list is the first that
// has it.
func (t *tree) group(name string, in *routes) (number int32, first bool) {
	g, ok := t.groups[name]
	if !ok {
		g = &group{int32(len(t.groups) + 1), in}
		t.groups[name] = g
	}
	return g.number, g.first == in
}

// answering are handlers that answer by themselves. Others may do so too, but
// those that stand in front of a guard are more likely to refuse requests.
var answering = []caddy.ModuleID{
	"http.handlers.acme_server", "http.handlers.file_server", "http.handlers.metrics", "http.handlers.reverse_proxy", "http.handlers.static_response",
}

// steps returns what a handler comes to: itself, and the routes it has.
func (t *tree) steps(handler caddyhttp.MiddlewareHandler) []step {
	itself := step{handler: handler}
	switch h := handler.(type) {
	case GuardHandler:
		itself.guard = h.Guard()
		if !t.seen[itself.guard] {
			t.guards = append(t.guards, itself.guard)
		}
		t.seen[itself.guard] = true
	case *caddyhttp.Subroute:
		itself.routes = t.below(h.Routes)
		if h.Errors != nil {
			return []step{itself, {routes: t.below(h.Errors.Routes), aside: true}}
		}
	case *caddyhttp.Invoke:
		itself.routes = t.invoked(h.Name)
	default:
		itself.answers = slices.Contains(answering, moduleID(handler))
		t.spelled.byHandler(handler)
		steps := []step{itself}
		for _, list := range routesIn(handler) {
			steps = append(steps, step{routes: t.below(list), aside: true})
		}
		return steps
	}
	return []step{itself}
}

// invoked returns the list of a named route, nil if there is none.
func (t *tree) invoked(name string) *routes {
	if rs, ok := t.named[name]; ok {
		return rs
	}
	route, ok := t.server.NamedRoutes[name]
	if !ok {
		return nil
	}
	rs := new(routes)
	t.named[name] = rs
	// While the list is being read, a step that leads back to it must take it to
	// hold everything.
	rs.contents = contents{handlers: ^uint64(0), scopes: ^uint8(0), hosts: true}
	read := new(routes)
	t.read(read, caddyhttp.RouteList{*route}, false)
	*rs, rs.named = *read, true
	return rs
}

func (t *tree) contents(s *step) (c contents) {
	if s.handler != nil {
		c.handlers = t.bit(moduleID(s.handler))
	}
	if s.guard != nil {
		c.scopes = scopeBit(s.guard.Scope)
	}
	if s.routes != nil {
		c.add(s.routes.contents)
	}
	return c
}

// bit returns the bit of a module, and numbers it if it has none.
func (t *tree) bit(id caddy.ModuleID) uint64 {
	bit, ok := t.modules[id]
	if !ok {
		bit = 1 << min(len(t.modules), 63)
		t.modules[id] = bit
	}
	return bit
}

func scopeBit(s Scope) uint8 {
	switch s {
	case ScopeSNI:
		return 1
	case ScopeSite:
		return 2
	default:
		return 4
	}
}

// moduleID is the ID of a handler or a matcher.
func moduleID(module any) caddy.ModuleID {
	if m, ok := module.(caddy.Module); ok {
		return m.CaddyModule().ID
	}
	return ""
}

// withoutTLS notes the guards of a route that no TLS request can match.
func (t *tree) withoutTLS(route *caddyhttp.Route) {
	each := func(list caddyhttp.RouteList) {
		for i := range list {
			t.withoutTLS(&list[i])
		}
	}
	for _, handler := range route.Handlers {
		switch h := handler.(type) {
		case GuardHandler:
			if !t.seen[h.Guard()] {
				t.seen[h.Guard()] = false
			}
		case *caddyhttp.Subroute:
			each(h.Routes)
			if h.Errors != nil {
				each(h.Errors.Routes)
			}
		case *caddyhttp.Invoke:
			if named, ok := t.server.NamedRoutes[h.Name]; ok && !t.plain[h.Name] {
				t.plain[h.Name] = true
				t.withoutTLS(named)
			}
		default:
			for _, list := range routesIn(handler) {
				each(list)
			}
		}
	}
}
