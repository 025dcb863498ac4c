package authority

import (
	"slices"

	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// Refused is told of requests that a guard refused. It warns once of what start did
// not know: the certificate that led the client here.
func (s *Server) Refused(sni, host string) {
	snap := s.Snapshot()
	if snap.strictSNIHost || !snap.CertificateCovers(sni, host) {
		return
	}
	if site := snap.Site(sni); s.HTTP3() && !snap.guarded(sni) && s.First("open "+site) {
		s.logger.Warn(sharedWithoutGuard, zap.Strings("sites", []string{site}), zap.String("host", host), zap.String("server", s.Name()))
	}
	if s.origins == nil && s.First("no origin") {
		s.logger.Warn(sharedWithoutOrigin, zap.Strings("sites", []string{host}), zap.String("sni", sni), zap.String("host", host), zap.String("server", s.Name()))
	}
}

// A managedClass is a wildcard that Caddy manages a certificate for, with a class of
// server names under it.
type managedClass struct {
	parent string
	class  sniClass
}

// knownRefusal is [Snapshot.Refuses], and goes by the names that Caddy manages
// certificates for where there is none yet. It keeps which
// hosts are refused, two of them at most: one may be the name itself.
func (s *Snapshot) knownRefusal(sni string, kept map[managedClass][]string) Refusal {
	found, parent := s.Refuses(sni), hostname.Parent(sni)
	if found.Answer != Unknown || parent == "" || !s.managesWildcard(parent) {
		return found
	}
	class := managedClass{parent, s.sniClass(sni)}
	hosts, ok := kept[class]
	if under := s.refusals.under[parent]; !ok && under != nil {
		for _, host := range under.refusable {
			by := sni
			if host == sni { // never refused, but perhaps to others of the class
				if by = s.refusals.other + "." + parent; s.sniClass(by) != class.class {
					continue
				}
			}
			if len(hosts) < 2 && s.refused(by, host) {
				hosts = append(hosts, host)
			}
		}
		kept[class] = hosts
	}
	for _, host := range hosts {
		if host != sni {
			return Refusal{Yes, sni, host}
		}
	}
	return found
}

// managesWildcard tells whether a site is a wildcard with this ending, for which
// Caddy will have a certificate that it presents for all names under it.
func (s *Snapshot) managesWildcard(parent string) bool {
	site := s.routes.of(s.refusals.other + "." + parent)
	return site != nil && slices.Contains(site.patterns, "*."+parent)
}
