package authority

import (
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// hosts are the exact names in a server's config, so that those that may be
// advertised under a wildcard certificate are found without looking at every
// site. A list is in alphabetical order.
type hosts struct {
	// under holds the names in host matchers, by what a certificate's wildcard
	// for them ends in.
	under map[string][]string
	// ofSite holds those that a guard lets through for their own site alone,
	// which under has not, by what the routes find for them. It is nil if the
	// server has no such guard.
	ofSite map[string][]string
	// shared holds the names in share groups.
	shared map[string]struct{}
}

func newHosts(srv *caddyhttp.Server, rs *routes, gs *guards) *hosts {
	hs := &hosts{under: make(map[string][]string), shared: make(map[string]struct{})}
	for _, g := range gs.all() {
		if g.BySite && hs.ofSite == nil {
			hs.ofSite = make(map[string][]string)
		}
		for _, name := range slices.Concat(g.Share...) {
			if name, err := hostname.ParseName(name); err == nil {
				hs.shared[name] = struct{}{}
			}
		}
	}

	names := matchedNames(srv.Routes)
	for _, route := range srv.NamedRoutes {
		names = append(names, matchedNames(caddyhttp.RouteList{*route})...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		bySite := false
		gs.each(name, func(g *Guard, _ bool) bool {
			bySite = g.BySite
			return !bySite
		})
		_, shared := hs.shared[name]
		if parent := hostname.Parent(name); bySite && !shared {
			site := string(appendFound(nil, &rs.byHost, name))
			hs.ofSite[site] = append(hs.ofSite[site], name)
		} else if parent != "" {
			hs.under[parent] = append(hs.under[parent], name)
		}
	}
	return hs
}

// matchedNames returns the names in the host matchers of routes; nested ones as
// well: with a wildcard certificate the usual site is *.example.com, and its
// names are in there.
func matchedNames(list caddyhttp.RouteList) (names []string) {
	for i := range list {
		cond := hostCondition(&list[i])
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
				names = append(names, matchedNames(subroute.Routes)...)
			}
		}
	}
	return names
}

// appendFound adds to b what a table finds for a name: names that find the same
// are the same to it.
func appendFound(b []byte, t *table, name string) []byte {
	c := t.find(name)
	for r, ok := c.next(); ok; r, ok = c.next() {
		b = strconv.AppendBool(binary.BigEndian.AppendUint32(b, uint32(r.index)), r.certain)
	}
	return b
}
