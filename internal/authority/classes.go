package authority

import (
	"crypto/rand"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// An sniClass is what it depends on, its certificates aside, how hosts are
// treated on a connection with an SNI (see [Guard]). Clients can make up as many
// server names as they like under a wildcard certificate; their classes are
// those of the configuration.
type sniClass struct {
	policies class
	// site is set where a guard asks for the site of the SNI. It does so for the
	// hosts of its own site. On a connection whose SNI has another site it
	// refuses them all, whichever site that is: where no guard of the SNI's own
	// site asks, the site makes no difference. Example: a.test has `scope site`,
	// b.test and c.test have no guard. Both refuse a.test alike.
	site class
	// name is the SNI itself if it is one of a share group, or if it matches too
	// many kinds of wildcards.
	name string
}

func (s *Snapshot) sniClass(sni string) (c sniClass) {
	if _, shared := s.hosts.shared[sni]; shared {
		return sniClass{name: sni}
	}
	ok := false
	var policies, sites cursor
	s.policies.find(&policies, sni)
	if c.policies, ok = policies.class(); !ok {
		return sniClass{name: sni}
	}
	if !s.hosts.asksSite(s.routes, sni) {
		return c
	}
	s.routes.byHost.find(&sites, sni)
	if c.site, ok = sites.class(); !ok {
		return sniClass{name: sni}
	}
	return c
}

// mostClasses is how many classes of server names with certificates there are
// room for, with some for certificates that are renewed.
func (s *Snapshot) mostClasses() int {
	return len(s.policies.list) + len(s.routes.sites) + len(s.hosts.shared) + 500
}

// lasts is until when an answer is right that was found for a class and its
// certificates: as long as the config, or not for long where it depends on the
// certificates of the hosts, too (see [Snapshot.SamePolicy] on fallback_sni).
func (s *Snapshot) lasts() expiry {
	if s.fallbacks {
		return expiry(time.Now().Add(freshFor))
	}
	return expiry{}
}

// fallbacksDiffer tells whether policies have all settings in common but
// fallback_sni.
func (ps *policies) fallbacksDiffer() bool {
	fallbacks := make(map[int]int) // by the other settings
	for i := range ps.list {
		p := &ps.list[i]
		if before, ok := fallbacks[p.settings]; ok && before != p.fallback {
			return true
		}
		fallbacks[p.settings] = p.fallback
	}
	return false
}

// An expiry is when something ends; the zero value is never.
type expiry time.Time

func (e expiry) over() bool { return !time.Time(e).IsZero() && !time.Now().Before(time.Time(e)) }

// newRefusals reads which names there are. It needs the rest of the snapshot.
func newRefusals(s *Snapshot) *refusals {
	rs := &refusals{under: make(map[string]*underWildcard), other: "connreuse-" + strings.ToLower(rand.Text())}
	classes := s.mostClasses()
	rs.byClass = newCache[refusalKey, classRefusals](classes)
	rs.presenters = newCache[*x509.Certificate, presenters](classes)

	groups := make(map[string]map[sniClass]int)
	for _, name := range s.exactNames() {
		parent := hostname.Parent(name)
		if parent == "" {
			continue
		}
		under := rs.under[parent]
		if under == nil {
			under = new(underWildcard)
			rs.under[parent], groups[parent] = under, make(map[sniClass]int)
		}
		if s.refusable(name) {
			under.refusable = append(under.refusable, name)
		}
		class := s.sniClass(name)
		at, ok := groups[parent][class]
		if !ok {
			at = len(under.groups)
			groups[parent][class] = at
			under.groups = append(under.groups, nil)
		}
		under.groups[at] = append(under.groups[at], name)
	}
	for _, shape := range s.guards.patterns.wild {
		if !shape.wildcard[0] {
			for pattern := range shape.patterns {
				rs.odd = append(rs.odd, pattern)
			}
		}
	}
	slices.Sort(rs.odd)
	return rs
}

// exactNames returns the names that the configuration spells out for which some
// route can run, in alphabetical order: those in host matchers, in TLS
// policies, and in share groups.
func (s *Snapshot) exactNames() (names []string) {
	add := func(text string) {
		if name, err := hostname.ParseName(text); err == nil && name == text && s.routes.of(name) != nil {
			names = append(names, name)
		}
	}
	for pattern := range s.guards.patterns.exact {
		add(pattern)
	}
	for pattern := range s.policies.bySNI.exact {
		add(pattern)
	}
	for name := range s.hosts.shared {
		add(name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// under returns the left-most label of a pattern if the rest of it matches
// parent.
func under(pattern, parent string) (label string, ok bool) {
	label, rest, _ := strings.Cut(pattern, ".")
	patterns, labels := strings.Split(rest, "."), strings.Split(parent, ".")
	return label, slices.EqualFunc(patterns, labels, func(p, l string) bool { return p == "*" || p == l })
}
