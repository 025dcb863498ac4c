package authority

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
	"github.com/caddy-connreuse/connreuse/internal/matcher"
)

// openMatchers are the matchers that say nothing about who may ask: a host that
// stands beside them is there for everybody. The list is of what is allowed, since
// a matcher that nobody here knows may look at the client's address.
var openMatchers = []caddy.ModuleID{
	"http.matchers.host", "http.matchers.protocol", "http.matchers.method", "http.matchers.path",
	"http.matchers.path_regexp", "http.matchers.url_pattern", "http.matchers.query", "http.matchers.file", "http.matchers.not",
}

// openNames returns the exact names in the host matchers of a server's routes that
// any client may ask for. It leaves out those inside `not`, and those that stand
// beside or below a matcher that asks who the client is: remote_ip, client_ip, vars,
// expression, header. The operator keeps such names from strangers. It leaves out
// those as well that no request can reach, since a route around them is for other
// hosts.
func openNames(srv *caddyhttp.Server) map[string]struct{} {
	w := openWalk{server: srv, repl: caddy.NewReplacer(), names: make(map[string]struct{}), named: make(map[string]bool), met: make(map[use]bool)}
	w.routes(srv.Routes, nil)
	return w.names
}

// An openWalk walks through the routes that any client can reach.
type openWalk struct {
	server *caddyhttp.Server
	repl   *caddy.Replacer
	names  map[string]struct{}
	// named tells of each named route met so far whether it has such names at all. Most
	// have none, and need be visited once only.
	named map[string]bool
	// alone: what counts is whether there are names at all.
	alone bool
	met   map[use]bool
	// within are the named routes around.
	within []string
}

// A use is one of a named route, below the innermost route with host matchers, which tells
// those around it as well.
type use struct {
	name  string
	below *table
}

// routes visits a list below routes with these host matchers.
func (w *openWalk) routes(list caddyhttp.RouteList, outer []*table) {
	for i := range list {
		route := &list[i]
		cond := hostCondition(route, w.repl)
		if cond.never {
			continue
		}
		closed := false
		for _, set := range route.MatcherSets {
			if open(set) {
				w.add(w.hostsOf(set), outer)
			} else {
				closed = true
			}
		}
		if closed || len(route.Handlers) == 0 {
			continue
		}
		inner := outer
		if cond.asksForHost() {
			t := new(table)
			t.addEntry(false)
			cond.addTo(t)
			inner = append(slices.Clip(outer), t)
		}
		w.handlers(route.Handlers, inner)
	}
}

func (w *openWalk) handlers(handlers []caddyhttp.MiddlewareHandler, outer []*table) {
	for _, handler := range handlers {
		switch h := handler.(type) {
		case *caddyhttp.Subroute:
			w.routes(h.Routes, outer)
		case *caddyhttp.Invoke:
			w.invoke(h.Name, outer)
		}
	}
}

// invoke visits a named route, as far as the routes around each use of it let hosts
// through.
func (w *openWalk) invoke(name string, outer []*table) {
	route, ok := w.server.NamedRoutes[name]
	if !ok || slices.Contains(w.within, name) {
		return
	}
	w.within = append(w.within, name)
	defer func() { w.within = w.within[:len(w.within)-1] }()
	list := caddyhttp.RouteList{*route}
	has, met := w.named[name]
	if !met {
		alone := *w
		alone.names, alone.alone = make(map[string]struct{}), true
		alone.routes(list, nil)
		has = len(alone.names) > 0
		w.named[name] = has
	}
	if has && w.alone {
		w.names[name] = struct{}{}
		return
	}
	here := use{name: name}
	if len(outer) > 0 {
		here.below = outer[len(outer)-1]
	}
	if has && !w.met[here] {
		w.met[here] = true
		w.routes(list, outer)
	}
}

// add adds the patterns that are exact names and that the routes around let through.
func (w *openWalk) add(patterns []string, outer []*table) {
	for _, pattern := range patterns {
		// A pattern that is not canonical never matches a canonical host.
		if name, err := hostname.ParseName(pattern); err != nil || name != pattern {
			continue
		}
		if !slices.ContainsFunc(outer, func(t *table) bool { _, ok := t.first(pattern); return !ok }) {
			w.names[pattern] = struct{}{}
		}
	}
}

// open tells whether a matcher set has only matchers that say nothing about who may
// ask; also inside `not`.
func open(set caddyhttp.MatcherSet) bool {
	return !slices.ContainsFunc(set, func(matcher any) bool {
		module, ok := matcher.(caddy.Module)
		if !ok || !slices.Contains(openMatchers, module.CaddyModule().ID) {
			return true
		}
		not, ok := matcher.(*caddyhttp.MatchNot)
		return ok && slices.ContainsFunc(not.MatcherSets, func(inner caddyhttp.MatcherSet) bool { return !open(inner) })
	})
}

// hostsOf returns the host patterns of a matcher set.
func (w *openWalk) hostsOf(set caddyhttp.MatcherSet) (patterns []string) {
	for _, m := range set {
		if named, ok := matcher.As[caddyhttp.MatchHost](m); ok {
			var hosts hostSet
			hosts.addHosts(named, w.repl)
			patterns = append(patterns, hosts.patterns...)
		}
	}
	return patterns
}
