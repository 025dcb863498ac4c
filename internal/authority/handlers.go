package authority

import "github.com/caddyserver/caddy/v2"

// HandlerRuns tells whether a handler with that module ID can run for a TLS
// request to host. It looks into subroutes, named routes, and the routes that
// handlers have for errors and responses, but not into the server's error
// routes. The host is as Caddy routes it ([hostname.Routed]).
//
// It takes the hosts of matchers and the groups of routes into account. All
// other matchers may match.
func (s *Snapshot) HandlerRuns(host string, id caddy.ModuleID) bool {
	return s.guards.runs(s.guards.main, host, id)
}

// NamesHostAnywhere tells whether a matcher at any depth, in the routes or in the error
// routes, is there for host, which may be empty: a host matcher, or another one, or a
// handler such as map, that compares hosts with the name. A route without any names
// nothing.
func (s *Snapshot) NamesHostAnywhere(host string) bool {
	if _, ok := s.guards.patterns.first(host); ok {
		return true
	}
	_, ok := s.guards.spelled.names[host]
	return ok
}
