// Package matcher reads matchers of requests as Caddy keeps them.
package matcher

import "github.com/caddyserver/caddy/v2/modules/caddyhttp"

// As returns a matcher of type T, if it is one. Those of a config are pointers, those of
// automatic HTTPS, in its redirects, are values.
func As[T any](matcher any) (m T, ok bool) {
	if p, ok := matcher.(*T); ok {
		return *p, true
	}
	m, ok = matcher.(T)
	return m, ok
}

// Hosts returns the hosts that matchers name, as they are written.
func Hosts(sets caddyhttp.MatcherSets) (hosts []string) {
	for _, set := range sets {
		for _, m := range set {
			named, _ := As[caddyhttp.MatchHost](m)
			hosts = append(hosts, named...)
		}
	}
	return hosts
}
