package authority

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A Guard is what a misdirected handler makes known of itself.
type Guard struct {
	// Accepts tells whether a request for host passes on a connection with that
	// SNI, from a peer that is no trusted gateway. It ignores report_only. Both
	// names are canonical; sni may be empty.
	//
	// The answer may depend on nothing else of the SNI than its TLS policy, its
	// certificate, whether it equals the host, whether Share has both, and with
	// ScopeSite its site: answers are kept by these.
	Accepts func(s *Snapshot, sni, host string) bool
	// Scope says which hosts Accepts can be true for.
	Scope Scope
	// ReportOnly: the guard lets pass what Accepts is false for.
	ReportOnly bool
	// ErrorRoutes: it hands its refusals to the server's error routes.
	ErrorRoutes bool
	// AcceptsMissingSNI: on connections without SNI every host passes that does not
	// require a client certificate.
	AcceptsMissingSNI bool
	// KeepsAltSvc: it leaves HTTP/3 where that leads to refusals.
	KeepsAltSvc bool
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

// guards says which guards and other handlers can run for a host.
type guards struct {
	main   *routes
	errors *routes // nil if there are none
	// patterns has those of the host matchers at all depths in one entry.
	patterns table
	// modules has the bits of the modules of handlers in contents.
	modules map[caddy.ModuleID]uint64
	// spelled is what all matchers and handlers tell apart.
	spelled spelled
	// placed are the guards in routes that TLS requests can reach, each once.
	placed []*Guard
	// anywhere are guards in handlers that show no routes: they may run for every
	// host.
	anywhere []*Guard
}

// newGuards looks for guards in the routes of a server; registered are all that
// there are.
func newGuards(srv *caddyhttp.Server, registered []*Guard) *guards {
	t := newTree(srv)
	gs := &guards{main: t.top(srv.Routes), modules: t.modules}
	if srv.Errors != nil {
		t.errors = true
		gs.errors = t.top(srv.Errors.Routes)
	}
	gs.placed, gs.patterns, gs.spelled = t.guards, t.patterns, t.spelled
	for _, g := range registered {
		if _, ok := t.seen[g]; !ok {
			gs.anywhere = append(gs.anywhere, g)
		}
	}
	return gs
}

// all returns every guard once.
func (gs *guards) all() []*Guard {
	return slices.Concat(gs.anywhere, gs.placed)
}

// same tells whether the routes at all levels, and the error routes, take both
// names for the same.
func (gs *guards) same(a, b string) bool {
	by := comparison{a: a, b: b}
	return by.same(gs.main) && (gs.errors == nil || by.same(gs.errors))
}

// each calls f for each guard that can run for host, until f returns false;
// certain: it runs for every request to that host, whatever else it asks for.
func (gs *guards) each(host string, f func(g *Guard, certain bool) bool) {
	for _, g := range gs.anywhere {
		if !f(g, false) {
			return
		}
	}
	w := walk{host: host, sees: func(s *step, certain bool) bool {
		return s.guard == nil || f(s.guard, certain)
	}}
	w.list(gs.main, true, nil)
	if gs.errors != nil && !w.over {
		w.list(gs.errors, false, nil)
	}
}

// runs tells whether a handler of a module can run for a request to host, in
// these routes or below.
func (gs *guards) runs(rs *routes, host string, id caddy.ModuleID) bool {
	bit, ok := gs.modules[id]
	if !ok || rs == nil {
		return false
	}
	w := walk{host: host, only: bit, sees: func(s *step, _ bool) bool {
		return s.handler == nil || moduleID(s.handler) != id
	}}
	w.list(rs, true, nil)
	return w.over
}

// A walk follows all ways that a request for one host can take through routes,
// in the order in which Caddy runs them.
type walk struct {
	host string
	// sees is called for each step, until it returns false; certain as in
	// [guards.each].
	sees func(s *step, certain bool) bool
	// only leaves out routes without handlers of these modules; 0 is all.
	only uint64
	// early leaves out error routes that run for none of the [earlyErrors].
	early bool
	over  bool
	// visits counts those of named routes. Once they are many, met holds whether one may
	// have answered.
	visits int
	met    map[visit]bool
}

// manyVisits are more than a walk through routes that people write makes: it need not
// remember them, which would allocate memory for a request.
const manyVisits = 32

// A visit is one of a named route.
type visit struct {
	routes  *routes
	certain bool
}

// list walks through a list of routes, which every request for the host gets to
// if certain. It returns whether one of them may have answered, or ended the
// search for more.
func (w *walk) list(rs *routes, certain bool, above *chain) (answered bool) {
	if above.has(rs) {
		return false
	}
	if rs.named {
		w.visits++
	}
	if !rs.named || w.visits <= manyVisits {
		return w.through(rs, certain, above)
	}
	answered, met := w.met[visit{rs, certain}]
	if met {
		return answered
	}
	answered = w.through(rs, certain, above)
	if w.met == nil {
		w.met = make(map[visit]bool)
	}
	w.met[visit{rs, certain}] = answered
	return answered
}

// through is list for what the walk has not met.
func (w *walk) through(rs *routes, certain bool, above *chain) (answered bool) {
	here := chain{rs, above}
	var taken groupSet
	var c cursor
	rs.byHost.find(&c, w.host)
	for r, ok := c.next(); ok && !w.over; r, ok = c.next() {
		s := &rs.sites[r.index]
		surely := r.certain
		if w.early && s.later {
			continue
		}
		before, surelyBefore := taken.add(s.group, r.certain)
		if surelyBefore {
			continue
		}
		surely = surely && !before && (s.alone || s.group == 0)
		if w.only == 0 || s.contents.handlers&w.only != 0 {
			answered = w.steps(s, certain && surely && !answered, &here) || answered
		}
		if s.terminal {
			answered = true
			if surely {
				break
			}
		}
	}
	return answered
}

// steps walks through what a route does.
func (w *walk) steps(s *site, certain bool, above *chain) (answered bool) {
	for i := range s.steps {
		st := &s.steps[i]
		runs := certain && !answered && !st.aside
		if !w.sees(st, runs) {
			w.over = true
			return answered
		}
		if st.routes != nil {
			answered = w.list(st.routes, runs, above) || answered
			if w.over {
				return answered
			}
		}
		answered = answered || st.answers
	}
	return answered
}

// A groupSet holds the groups of which a route has run or may have.
type groupSet struct {
	few  [4]groupState // what the Caddyfile makes of sites needs one or two
	n    int
	more map[int32]bool
}

type groupState struct {
	group  int32
	surely bool
}

// add notes that a route of the group runs, surely or perhaps, and returns
// whether one has before: then this one does not run, surely or perhaps. Routes
// without a group, which is 0, do not exclude each other.
func (gs *groupSet) add(group int32, surely bool) (before, surelyBefore bool) {
	if group == 0 {
		return false, false
	}
	for i := range gs.few[:gs.n] {
		if g := &gs.few[i]; g.group == group {
			surelyBefore = g.surely
			g.surely = surelyBefore || surely
			return true, surelyBefore
		}
	}
	if gs.n < len(gs.few) {
		gs.few[gs.n] = groupState{group, surely}
		gs.n++
		return false, false
	}
	if gs.more == nil {
		gs.more = make(map[int32]bool)
	}
	surelyBefore, before = gs.more[group]
	gs.more[group] = surelyBefore || surely
	return before, surelyBefore
}
