// Package authority answers one question: may a request for this host travel
// on a connection with this SNI, on this server?
//
// It reads a server's configuration once, when all of it is provisioned, into
// a [Snapshot]. Take this Caddyfile:
//
//	{
//		servers {
//			strict_sni_host insecure_off
//			listener_wrappers {
//				origin
//			}
//		}
//	}
//
//	a.example.com, b.example.com {
//		misdirected {
//			scope certificate
//		}
//	}
//
//	vault.example.com {
//		tls internal {
//			client_auth {
//				trust_pool pki_root local
//			}
//		}
//		misdirected
//	}
//
// For each name the snapshot knows:
//
//   - its site (routes.go, conditions.go). a.example.com and b.example.com have
//     one. tree.go reads the routes, with those below the top level and those
//     inside other handlers (inside.go); table.go finds the routes, or TLS
//     policies, that can match a name.
//   - its TLS connection policy (policies.go, compare.go, settings.go). vault.example.com
//     has one of its own, as its connections are asked for a client certificate.
//   - what its client has to show (client_auth.go, proof.go, trust.go), and whether its
//     spelling counts (spelling.go).
//   - the certificate that is presented for it (certificates.go), read from
//     Caddy's cache at most once a second for each name. managed.go knows those that
//     Caddy has not obtained yet.
//   - the guards it passes (guards.go, always.go): the misdirected handlers that can run
//     for it, with their scopes (scope.go) and IP sources (sources.go). handlers.go finds
//     other handlers.
//   - the listeners it is reached through (places.go), and whether these have TLS
//     (plain.go). wrappers.go says which block of a Caddyfile they are from.
//
// Three things follow from these. [Snapshot.Accepted]: whether a request passes
// on a connection. [OriginSets]: what a client may be told in an ORIGIN frame
// (origins.go, derived.go). [Snapshot.Refuses]: whether a certificate leads
// requests to a connection that refuses them (refusals.go). classes.go says
// which server names get the same answers, cache.go keeps the answers, and hosts.go has
// the names that are asked for.
//
// App (app.go) has the servers of a configuration and warns of what is
// dangerous in it (warnings.go, unguarded.go, origin_warnings.go): of certificates that
// lead to refusals (shared.go, and pooled.go once they do), and of error routes that
// change them (changed.go, early.go). explain.go, explain_origins.go and sites.go give the
// same answers in words.
//
// All names are canonical (package hostname), an absent SNI is "".
package authority

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// A Snapshot is what is true on one server while one config is loaded. But for
// the certificates it never changes. Its methods take no lock, allocate nothing
// (but when certificates are read anew, see [Snapshot.CertificateCovers]), and
// are safe for concurrent use.
type Snapshot struct {
	policies      *policies
	routes        *routes
	guards        *guards
	certificates  *certificates
	hosts         *hosts
	refusals      *refusals
	trust         *trust
	strictSNIHost bool
	matching      []matching // nil if names alone select a policy
	// walled: some connections are asked for a client certificate and others are not,
	// or in another way, or some are dropped.
	walled    bool
	proxies   bool // a route has a reverse_proxy
	fallbacks bool // TLS policies differ in nothing but fallback_sni
	// changing tells of each error route whether it may change a refusal.
	changing []bool
}

func newSnapshot(srv *caddyhttp.Server, ps *policies, tls *caddytls.TLS, registered []*Guard) *Snapshot {
	guards := newGuards(srv, registered)
	s := &Snapshot{
		policies:      ps,
		routes:        guards.main,
		guards:        guards,
		certificates:  newCertificates(ps, tls),
		hosts:         newHosts(srv, guards),
		trust:         newTrust(srv),
		strictSNIHost: srv.StrictSNIHost != nil && *srv.StrictSNIHost,
		changing:      changing(srv),
	}
	_, s.proxies = guards.modules["http.handlers.reverse_proxy"]
	s.policies.bySNI.share()
	s.routes.byHost.share()
	s.refusals = newRefusals(s)
	s.fallbacks = ps.fallbacksDiffer()
	s.matching = matchingOf(srv, ps)
	s.walled = ps.drops || ps.clientAuthDiffers()
	return s
}

// SamePolicy tells whether the TLS connection policy of a connection with that
// SNI is the one that a proper connection for host has: all settings are
// equal. What selects the policy is no setting, nor is default_sni, which acts
// without an SNI alone. A different fallback_sni counts unless both names have a
// certificate, for it acts on names that have none. Where a matcher on more than
// SNI is in play, every policy that could be selected for either name must be
// equal.
func (s *Snapshot) SamePolicy(sni, host string) bool {
	return s.policies.same((*policy).bySettings, sni, host) &&
		(s.policies.same((*policy).byFallback, sni, host) || s.CertificateCovers(sni, sni) && s.CertificateCovers(host, host))
}

// SamePolicyWithoutSNI is [Snapshot.SamePolicy] for a connection without SNI.
// What selects a certificate by name is set aside: there was no name.
func (s *Snapshot) SamePolicyWithoutSNI(host string) bool {
	return s.policies.same((*policy).byUnnamed, "", host)
}

// AsksClientCert tells whether a proper connection for host is, or may be,
// asked for a client certificate.
func (s *Snapshot) AsksClientCert(host string) bool {
	return s.policies.clientAuth(host)
}

// AsksByAddress tells whether it depends on the address of a client whether a proper
// connection for host is asked for a client certificate, or may.
func (s *Snapshot) AsksByAddress(host string) bool {
	return s.policies.asksByAddress(host)
}

// SameClientAuth tells whether a connection with that SNI is asked for a client
// certificate in the same way as a proper connection for host.
func (s *Snapshot) SameClientAuth(sni, host string) bool {
	return s.policies.same((*policy).byClientAuth, sni, host)
}

// KeepsClientAuth tells whether a request for host on a connection with that SNI
// leads around no client-certificate rule: a proper connection for host is asked
// for no certificate, or in the same way as this one. A host without TLS policy,
// or with one that drops its connections, has no proper connection.
func (s *Snapshot) KeepsClientAuth(sni, host string) bool {
	return s.policies.keepsClientAuth(sni, host)
}

// Open tells whether a proper connection for host is asked for no client
// certificate. A host without TLS policy, or with one that drops its connections,
// has no proper connection.
func (s *Snapshot) Open(host string) bool {
	return !s.policies.dropped(host) && !s.policies.clientAuth(host)
}

// AsksAnybody tells whether a TLS policy of the server asks for client
// certificates.
func (s *Snapshot) AsksAnybody() bool { return s.policies.asksAnybody }

// RequiresClientCert tells whether each proper connection for host has shown a
// client certificate: the only TLS policy for it requires one.
func (s *Snapshot) RequiresClientCert(host string) bool {
	return s.policies.requiresClientCert(host)
}

// VerifiesClientCert tells whether each proper connection for host has shown a
// client certificate that a trusted CA has signed.
func (s *Snapshot) VerifiesClientCert(host string) bool {
	return s.policies.verifiesClientCert(host)
}

// Barred tells whether no connection is right for host that shows no client
// certificate: [Snapshot.RequiresClientCert], or no connection for host comes about
// at all, while the server asks for certificates elsewhere.
func (s *Snapshot) Barred(host string) bool {
	return s.policies.barred(host)
}

// UnnamedPolicy tells whether a connection with that SNI has the TLS policy of a
// name that no policy lists, and that of a connection without SNI: such a
// connection is right for a request that names no host.
func (s *Snapshot) UnnamedPolicy(sni string) bool {
	return s.SamePolicyWithoutSNI(sni) && s.SamePolicy(sni, s.policies.unlisted)
}

// SameSite tells whether Caddy routes both names to the same site.
func (s *Snapshot) SameSite(a, b string) bool {
	return s.routes.same(a, b)
}

// SameRoutes is [Snapshot.SameSite], and tells of the host matchers below the top
// level, and of the error routes, too, whether they take both names for the same.
func (s *Snapshot) SameRoutes(a, b string) bool {
	return s.guards.same(a, b)
}

// Site names the site that Caddy routes host to, in words for an operator.
func (s *Snapshot) Site(host string) string {
	if site := s.routes.of(host); site != nil {
		return site.name
	}
	return "none"
}

// CertificateCovers tells whether host is covered by the certificate that is
// presented for sni. If it may be one of several, all of them must cover the
// host. It reads the certificate cache at most once a second for each SNI.
func (s *Snapshot) CertificateCovers(sni, host string) bool {
	return sni != "" && s.certificates.cover(sni, host)
}

// Accepted tells whether a request for host, from a peer that is no trusted
// gateway, is let through on a connection with that SNI: every guard of the
// host passes it, and so does strict_sni_host where that is on. The guard of
// the host decides, not that of the SNI. Without a guard, a shared policy and
// a certificate that covers the host make it proper.
func (s *Snapshot) Accepted(sni, host string) bool {
	guarded, accepted := s.judged(sni, host)
	return accepted && (guarded || s.SamePolicy(sni, host) && s.CertificateCovers(sni, host))
}

// judged tells whether strict_sni_host or a guard judges a request for host on a
// connection with that SNI, and whether all that do let it through.
func (s *Snapshot) judged(sni, host string) (guarded, accepted bool) {
	if s.strictSNIHost && sni != host {
		return true, false
	}
	accepted = true
	s.guards.each(host, func(g *Guard, _ bool) bool {
		guarded = true
		accepted = g.Accepts(s, sni, host)
		return accepted
	})
	return guarded, accepted
}

// Proxies tells whether a route of the server has a reverse_proxy.
func (s *Snapshot) Proxies() bool { return s.proxies }

// Advertised tells whether a client may be told, by that rule, that host belongs on a
// connection with that SNI. It is always [Snapshot.Accepted] there, the certificate
// covers it, and the TLS policy is the same, so nobody is led across a
// client-certificate rule, not even by a share group. A site must be there for it as
// well: a certificate may name hosts of other machines.
func (s *Snapshot) Advertised(by Naming, sni, host string) bool {
	return s.absence(by, sni, host, s.presented(sni)) == Advertised
}
