package authority

import (
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// mostAsked bounds the work for warnings: each class of server names can take a look at
// each host. A start must not take long, and one that is found is worth a warning.
const mostAsked = 100_000

const (
	sharedWithoutOrigin = "sites share a certificate and misdirected refuses their requests on each other's connections: browsers send them there, get 421 " +
		"and ask again; add the origin listener wrapper, or give the sites a certificate each"
	sharedWithoutGuard = "clients come from these sites over HTTP/3 to others that refuse their requests, again and again, since the certificate covers both: " +
		"put misdirected { scope certificate } into them, which withdraws HTTP/3 there"
	addressWithoutSNI = "clients send no TLS server name to an IP address, so misdirected refuses all requests to these sites: " +
		"set default_sni to the address"
)

// sharedWarnings finds sites that a shared certificate leads to refusals. It foresees
// the certificates that Caddy manages.
func (s *Server) sharedWarnings(m managed) (found []Warning) {
	snap := s.Snapshot()
	if snap.strictSNIHost || !s.HasTLS() || len(snap.guards.all()) == 0 {
		return nil
	}
	snap = snap.foreseeing(m)
	var refused, open []string
	var example Refusal
	for sni, shown := range snap.serverNames {
		r := snap.Refuses(sni)
		if r.Answer != Yes {
			continue
		}
		r.SNI = shown
		if example = r; !snap.guards.always(sni) {
			open = append(open, shown)
			s.First("open " + snap.Site(sni))
		}
		refused = append(refused, r.Host)
	}
	if len(refused) > 0 && !s.SendsOrigins() {
		s.First("no origin")
		found = append(found, warn(sharedWithoutOrigin, "sites", refused, zap.String("sni", example.SNI), zap.String("host", example.Host)))
	}
	if len(open) > 0 && s.HTTP3() {
		found = append(found, warn(sharedWithoutGuard, "sites", open, zap.String("host", example.Host)))
	}
	var addresses []string
	for _, name := range snap.hosts.all {
		if hostname.IsIP(name) && snap.refused("", name) {
			addresses = append(addresses, name)
		}
	}
	if len(addresses) > 0 {
		found = append(found, warn(addressWithoutSNI, "sites", addresses))
	}
	return found
}

// serverNames goes through server names of clients, with how to show them: exact names
// of the sites, and a made-up one for each wildcard.
func (s *Snapshot) serverNames(yield func(sni, shown string) bool) {
	classes := make(map[sniClass]bool)
	next := func(sni, shown string) bool {
		classes[s.sniClass(sni)] = true
		return (len(classes) == 1 || len(classes)*len(s.hosts.all) <= mostAsked) && yield(sni, shown)
	}
	for _, name := range s.hosts.all {
		if !hostname.IsIP(name) && !next(name, name) {
			return
		}
	}
	var wildcards []string
	for _, site := range s.routes.sites {
		for _, pattern := range site.patterns {
			if parent, ok := strings.CutPrefix(pattern, "*."); ok && !strings.Contains(parent, "*") {
				wildcards = append(wildcards, parent)
			}
		}
	}
	slices.Sort(wildcards)
	for _, parent := range slices.Compact(wildcards) {
		if !next(s.refusals.other+"."+parent, "*."+parent) {
			return
		}
	}
}
