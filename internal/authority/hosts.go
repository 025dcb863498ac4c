package authority

import (
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// hosts are the exact names in a server's config, so that those that may be
// advertised under a wildcard certificate are found without looking at every
// site. A list is in alphabetical order.
type hosts struct {
	// under holds the names in host matchers, by what a certificate's wildcard
	// for them ends in. Those that a guard lets through on their own connection
	// alone are on no list.
	under map[string][]string
	// ofSite holds those that a guard lets through for their own site alone,
	// which under has not, by what the routes find for them.
	ofSite map[string][]string
	// guardedBySite tells of each route whether it has such a guard.
	guardedBySite []bool
	// shared holds the names in share groups.
	shared map[string]struct{}
	// all holds the names in host matchers.
	all []string
	// open holds those of them that any client may ask for.
	open map[string]struct{}
}

// names tells whether a host matcher has that very name.
func (hs *hosts) names(host string) bool {
	_, found := slices.BinarySearch(hs.all, host)
	return found
}

// isOpen tells whether any client may ask for an exact name.
func (hs *hosts) isOpen(host string) bool {
	_, ok := hs.open[host]
	return ok
}

func newHosts(srv *caddyhttp.Server, gs *guards) *hosts {
	rs := gs.main
	hs := &hosts{
		under:         make(map[string][]string),
		ofSite:        make(map[string][]string),
		guardedBySite: make([]bool, len(rs.sites)),
		shared:        sharedNames(gs),
		open:          openNames(srv),
	}
	everywhere := slices.ContainsFunc(gs.anywhere, func(g *Guard) bool { return g.Scope == ScopeSite }) ||
		gs.errors != nil && gs.errors.contents.scopes&scopeBit(ScopeSite) != 0
	for i := range rs.sites {
		hs.guardedBySite[i] = everywhere || rs.sites[i].contents.scopes&scopeBit(ScopeSite) != 0
	}

	repl := caddy.NewReplacer()
	names := matchedNames(srv.Routes, repl)
	for _, route := range srv.NamedRoutes {
		names = append(names, matchedNames(caddyhttp.RouteList{*route}, repl)...)
	}
	slices.Sort(names)
	hs.all = slices.Clip(slices.Compact(names))
	for _, name := range hs.all {
		bySite, ownOnly := false, false
		gs.each(name, func(g *Guard, _ bool) bool {
			bySite, ownOnly = bySite || g.Scope == ScopeSite, ownOnly || g.Scope == ScopeSNI
			return !ownOnly
		})
		_, shared := hs.shared[name]
		parent := hostname.Parent(name)
		switch {
		case parent == "":
		case shared || !bySite && !ownOnly:
			hs.under[parent] = append(hs.under[parent], name)
		case !ownOnly:
			site := string(appendFound(nil, &rs.byHost, name))
			hs.ofSite[site] = append(hs.ofSite[site], name)
		}
	}
	return hs
}

// sharedNames are those of all share groups.
func sharedNames(gs *guards) map[string]struct{} {
	shared := make(map[string]struct{})
	for _, g := range gs.all() {
		for _, name := range slices.Concat(g.Share...) {
			if name, err := hostname.ParseName(name); err == nil {
				shared[name] = struct{}{}
			}
		}
	}
	return shared
}

// asksSite tells whether some guard in the routes of an SNI asks for its site; see
// [sniClass].
func (hs *hosts) asksSite(rs *routes, sni string) bool {
	var c cursor
	rs.byHost.find(&c, sni)
	for r, ok := c.next(); ok; r, ok = c.next() {
		if hs.guardedBySite[r.index] {
			return true
		}
	}
	return false
}

// matchedNames returns the names in the host matchers of routes; nested ones as
// well: with a wildcard certificate the usual site is *.example.com, and its
// names are in there.
func matchedNames(list caddyhttp.RouteList, repl *caddy.Replacer) (names []string) {
	for i := range list {
		cond := hostCondition(&list[i], repl)
		if cond.never {
			continue
		}
		for _, pattern := range cond.names() {
			// a pattern that is not canonical never matches a canonical host
			if name, err := hostname.ParseName(pattern); err == nil && name == pattern {
				names = append(names, name)
			}
		}
		for _, handler := range list[i].Handlers {
			if subroute, ok := handler.(*caddyhttp.Subroute); ok {
				names = append(names, matchedNames(subroute.Routes, repl)...)
			}
		}
	}
	return names
}

// appendFound adds to b what a table finds for a name: names that find the same
// are the same to it.
func appendFound(b []byte, t *table, name string) []byte {
	var c cursor
	t.find(&c, name)
	for r, ok := c.next(); ok; r, ok = c.next() {
		b = strconv.AppendBool(binary.BigEndian.AppendUint32(b, uint32(r.index)), r.certain)
	}
	return b
}
