package authority

import (
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// hosts are the exact names in a server's config, so that those that a wildcard
// certificate covers are found without looking at every site.
type hosts struct {
	// under holds, in order, the names that host matchers of routes have, by
	// what a certificate's wildcard for them ends in.
	under map[string][]string
	// named holds all of them, and the names in share groups.
	named map[string]struct{}
}

func newHosts(srv *caddyhttp.Server, gs *guards) *hosts {
	hs := &hosts{under: make(map[string][]string), named: make(map[string]struct{})}
	hs.addRoutes(srv.Routes)
	for _, route := range srv.NamedRoutes {
		hs.addRoutes(caddyhttp.RouteList{*route})
	}
	for _, list := range hs.under {
		slices.Sort(list)
	}
	for _, place := range gs.places {
		for _, name := range slices.Concat(place.guard.Share...) {
			if name, err := hostname.ParseName(name); err == nil {
				hs.named[name] = struct{}{}
			}
		}
	}
	return hs
}

// addRoutes adds the names of nested host matchers as well: with a wildcard
// certificate the usual site is *.example.com, and its names are in there.
func (hs *hosts) addRoutes(list caddyhttp.RouteList) {
	for i := range list {
		cond := hostCondition(&list[i])
		if cond.never {
			continue
		}
		for _, pattern := range cond.names() {
			// a pattern that is not canonical never matches a canonical host
			name, err := hostname.ParseName(pattern)
			if _, seen := hs.named[name]; err != nil || name != pattern || seen {
				continue
			}
			hs.named[name] = struct{}{}
			if parent := hostname.Parent(name); parent != "" {
				hs.under[parent] = append(hs.under[parent], name)
			}
		}
		for _, handler := range list[i].Handlers {
			if subroute, ok := handler.(*caddyhttp.Subroute); ok {
				hs.addRoutes(subroute.Routes)
			}
		}
	}
}
