package authority

// always tells whether every request to host passes some guard before anything answers
// it. That need not be one and the same: each of a site's handle blocks may have its own.
func (gs *guards) always(host string) bool {
	open, answered := (&unguardedWays{host: host}).list(gs.main, nil)
	return !open && !answered
}

// unguardedWays follow requests to a host up to their first guard.
type unguardedWays struct {
	host string
	met  map[*routes]ways // of named routes
}

// ways are what [unguardedWays.list] tells.
type ways struct{ open, answered bool }

// list tells whether a request can get to the end of a list of routes without a guard,
// and whether one can be answered without.
func (w *unguardedWays) list(rs *routes, above *chain) (open, answered bool) {
	if above.has(rs) {
		return true, false
	}
	if !rs.named {
		return w.through(rs, above)
	}
	if known, ok := w.met[rs]; ok {
		return known.open, known.answered
	}
	open, answered = w.through(rs, above)
	if w.met == nil {
		w.met = make(map[*routes]ways)
	}
	w.met[rs] = ways{open, answered}
	return open, answered
}

// through is list for what has not been met.
func (w *unguardedWays) through(rs *routes, above *chain) (open, answered bool) {
	here := chain{rs, above}
	ended := false                 // some end at a route without being answered
	var taken groupSet             // groups of which a route has run or may have
	passed := make(map[int32]bool) // groups of which an unguarded route may have run
	open = true
	var c cursor
	rs.byHost.find(&c, w.host)
	for r, ok := c.next(); ok && open; r, ok = c.next() {
		s := &rs.sites[r.index]
		if _, surely := taken.add(s.group, r.certain); surely {
			continue
		}
		goesOn, answers := w.steps(s, &here)
		if answers {
			return false, true
		}
		if goesOn && s.terminal {
			ended, goesOn = true, false
		}
		switch {
		case s.group == 0:
			open = !r.certain || goesOn
		case s.alone:
			passed[s.group] = passed[s.group] || goesOn
			open = !r.certain || passed[s.group]
		}
	}
	return open || ended, false
}

// steps is list for what a route does.
func (w *unguardedWays) steps(s *site, above *chain) (open, answered bool) {
	for i := range s.steps {
		st := &s.steps[i]
		switch {
		case st.aside:
		case st.guard != nil:
			return false, false
		case st.answers:
			return false, true
		case st.routes != nil:
			if open, answered := w.list(st.routes, above); !open || answered {
				return open, answered
			}
		}
	}
	return true, false
}
