package authority

import (
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A Warning is something in the config that an operator should know of before
// it lets a request through, or keeps a guard from deciding.
type Warning struct {
	// The HTTP server it is about.
	Server  string
	Message string
	Fields  []zap.Field
}

// mostNamed is how many names one warning lists; the rest are counted.
const mostNamed = 20

func warn(message, what string, names []string, fields ...zap.Field) Warning {
	slices.Sort(names)
	names = slices.Compact(names)
	if more := len(names) - mostNamed; more > 0 {
		names = names[:mostNamed]
		fields = append(fields, zap.Int("more", more))
	}
	return Warning{Message: message, Fields: append(fields, zap.Strings(what, names))}
}

const unguarded = "sites that ask for client certificates can be reached over connections that were not asked for one: " +
	"strict_sni_host is off, and no misdirected handler runs for each of their requests"

const unguardedErrors = "error routes of sites that ask for client certificates ask an upstream, also over connections that were not asked for one: " +
	"Caddy refuses some requests, such as those with a method longer than 32 characters, before misdirected judges them; put misdirected into handle_errors as well"

const unguardedFiles = "error routes of sites that ask for client certificates serve files by the path that is asked for, also over connections that were not " +
	"asked for one: Caddy refuses some requests, such as those with an odd port, before misdirected judges them; rewrite to an error page, or put misdirected into handle_errors as well"

// warnings is not for the request path.
func (s *Snapshot) warnings() (found []Warning) {
	if len(s.policies.unmatched) > 0 {
		found = append(found, warn("sites are meant to ask for client certificates but never do: in a TLS policy Caddy matches "+
			"wildcards only in a row from the left", "sites", s.policies.unmatched))
	}
	found = append(found, s.changes()...)
	if s.strictSNIHost {
		// nothing can be crossed, so this is all there is to say
		if len(s.guards.all()) > 0 {
			found = append(found, Warning{Message: "strict_sni_host is on (Caddy turns it on by itself where a TLS policy asks for client certificates) " +
				"and answers 421 before any misdirected handler runs; set 'strict_sni_host insecure_off' on this server to let them decide"})
		}
		return found
	}

	if s.policies.clientAuthDiffers() {
		found = append(found, s.clientAuthWarnings()...)
	}

	seen := make(map[string]bool) // sites of the Caddyfile often import the same block
	for _, g := range s.guards.all() {
		for _, group := range g.Share {
			if key := strings.Join(group, " "); !seen[key] {
				seen[key] = true
				found = append(found, s.shareWarnings(group)...)
			}
		}
	}
	return found
}

// clientAuthWarnings are about the names for which clients are asked for a certificate,
// where for others they are not.
func (s *Snapshot) clientAuthWarnings() (found []Warning) {
	var open, failing, serving []string
	lenient := make(map[string][]string) // by option
	for name, shown := range s.clientAuthNames() {
		s.guards.each(name, func(g *Guard, _ bool) bool {
			if g.ReportOnly {
				lenient["report_only"] = append(lenient["report_only"], shown)
			}
			if g.AcceptsMissingSNI && !s.RequiresClientCert(name) && (!s.AsksSome() || s.policies.some((*policy).byAsksOnly, name)) {
				lenient["missing_sni accept"] = append(lenient["missing_sni accept"], shown)
			}
			return true
		})
		switch exposed := s.guards.errorsExpose(name); {
		case !s.guards.always(name):
			open = append(open, shown)
		case exposed == upstream:
			failing = append(failing, shown)
		case exposed == files:
			serving = append(serving, shown)
		}
	}
	if len(open) > 0 {
		found = append(found, warn(unguarded, "sites", open))
	}
	if len(failing) > 0 {
		found = append(found, warn(unguardedErrors, "sites", failing))
	}
	if len(serving) > 0 {
		found = append(found, warn(unguardedFiles, "sites", serving))
	}
	for _, option := range slices.Sorted(maps.Keys(lenient)) {
		found = append(found, warn("an option of misdirected lets requests reach sites that ask for client certificates "+
			"over connections that were not asked for one", "sites", lenient[option], zap.String("option", option)))
	}
	return found
}

// clientAuthNames returns the names, wildcards among them, for which clients
// are asked for a certificate, and how to call them.
func (s *Snapshot) clientAuthNames() map[string]string {
	names := make(map[string]string)
	add := func(name, shown string) {
		if s.policies.clientAuth(name) {
			names[name] = shown
		}
	}
	for _, site := range s.routes.sites {
		if site.patterns == nil {
			add(unnamed(&s.routes.byHost, &s.policies.bySNI), site.name)
		}
		for _, pattern := range site.patterns {
			add(pattern, pattern)
		}
	}
	for _, p := range s.policies.list {
		if p.clientAuth != 0 {
			for _, pattern := range p.patterns {
				if pattern != "" { // no SNI is nobody's name
					add(pattern, pattern)
				}
			}
		}
	}
	return names
}

// unnamed returns a name with more labels than any pattern in the tables: one
// for the hosts that no pattern matches.
func unnamed(tables ...*table) string {
	labels := 1
	for _, t := range tables {
		labels = max(labels, t.labels())
	}
	return strings.Repeat("*.", labels) + "*"
}

// shareWarnings are about a share group.
func (s *Snapshot) shareWarnings(group []string) (found []Warning) {
	few := group[:min(len(group), mostNamed)]
	if sites := s.crossed(group); len(sites) > 0 {
		found = append(found, warn("a share group of misdirected lets requests cross from one TLS policy to another",
			"sites", sites, zap.Strings("share", few)))
	}
	if sites := s.unshared(group); len(sites) > 0 {
		found = append(found, warn("a share group of misdirected has names that are refused on connections for its others: the misdirected handlers of their own sites "+
			"must have the group", "sites", sites, zap.Strings("share", few)))
	}
	return found
}

// unshared returns the names of a group that are refused on connections for others of it,
// but not for want of a client certificate.
func (s *Snapshot) unshared(group []string) (refused []string) {
	var names []string
	for _, text := range group {
		if name, err := hostname.ParseName(text); err == nil {
			names = append(names, name)
		}
	}
	for i, name := range names {
		if len(names) > 1 && !s.Barred(name) && s.refused(names[bit(i == 0)], name) {
			refused = append(refused, name)
		}
	}
	return refused
}

// crossed returns the sites of a group of names, if their TLS policies differ.
func (s *Snapshot) crossed(group []string) (sites []string) {
	differ := false
	for _, name := range group {
		sites = append(sites, s.Site(name))
		differ = differ || !s.SamePolicy(group[0], name)
	}
	if !differ {
		return nil
	}
	return sites
}
