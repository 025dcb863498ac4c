package misdirected

import (
	"cmp"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A Reason says why a request passes or is refused. The list is closed: metrics
// and placeholders take their values from it.
type Reason uint8

// The reasons, in the order of the decision's steps.
const (
	NoTLS Reason = iota
	ForwardProxy
	TrustedGateway
	EmptyHost
	InvalidHost
	OddHost
	TwoHosts
	NoSNI
	NoSNIRefused
	NoSNIPolicy
	SameHost
	Shared
	OtherHost
	SameSite
	OtherSite
	Covered
	NotCovered
	OtherPolicy
	reasonCount
)

// reasons holds what follows from each reason: the step of the decision that
// finds it, the status to refuse with, 0 to pass, the outcome it is counted as,
// and what it means.
var reasons = [reasonCount]struct {
	text    string
	step    int
	status  int
	outcome outcome
	meaning string
}{
	NoTLS:          {"no_tls", 1, 0, uncounted, "there is no SNI to judge by"},
	ForwardProxy:   {"forward_proxy", 1, 0, exempt, "it is a request to a forward proxy"},
	TrustedGateway: {"trusted_gateway", 2, 0, exempt, "the peer is a trusted gateway"},
	EmptyHost:      {"empty_host", 3, http.StatusBadRequest, badHost, "there is no host, or none that Caddy routes to the site of the SNI"},
	InvalidHost:    {"invalid_host", 3, http.StatusBadRequest, badHost, "the host is no host name"},
	OddHost:        {"odd_host", 3, http.StatusBadRequest, badHost, "the host is spelled so that Caddy routes it to another site than its canonical name"},
	TwoHosts:       {"two_hosts", 3, http.StatusBadRequest, badHost, ":authority and Host name different hosts"},
	NoSNI:          {"no_sni", 4, 0, noSNI, "there is no SNI, and missing_sni lets the host pass"},
	NoSNIRefused:   {"no_sni_refused", 4, http.StatusMisdirectedRequest, misdirected, "there is no SNI, and missing_sni is reject"},
	NoSNIPolicy:    {"no_sni_other_policy", 4, http.StatusMisdirectedRequest, misdirected, "there is no SNI, and the host has another TLS connection policy"},
	SameHost:       {"same_host", 5, 0, direct, "host and SNI are equal"},
	Shared:         {"shared", 6, 0, shared, "one share group has both"},
	OtherHost:      {"other_host", 7, http.StatusMisdirectedRequest, misdirected, "the host is not the SNI"},
	SameSite:       {"same_site", 7, 0, coalescedSite, "both have the same site and TLS connection policy"},
	OtherSite:      {"other_site", 7, http.StatusMisdirectedRequest, misdirected, "they have different sites"},
	Covered:        {"covered", 7, 0, coalescedCertificate, "the certificate for the SNI covers the host, and both have the same TLS connection policy"},
	NotCovered:     {"not_covered", 7, http.StatusMisdirectedRequest, misdirected, "the certificate for the SNI does not cover the host"},
	OtherPolicy:    {"other_policy", 7, http.StatusMisdirectedRequest, misdirected, "they have different TLS connection policies"},
}

// String is the reason as placeholders and logs have it.
func (r Reason) String() string { return reasons[r].text }

// Status is the HTTP status to refuse with: 421, or 400 where no other
// connection would help either; 0 lets the request pass.
func (r Reason) Status() int { return reasons[r].status }

// request is what the decision looks at.
type request struct {
	tls bool
	sni string // as the client sent it
	// host is the host as net/http has it: of the request target if that has
	// one, else :authority, else Host (RFC 9112 section 3.2.2, RFC 9113
	// section 8.3.1).
	host string
	// hostField is the Host field next to an :authority.
	hostField []string
	// remoteAddr is the other end of the TLS connection.
	remoteAddr string
	// forward: a plain CONNECT, or HTTP/1 with an absolute request target.
	forward bool
	// http10 may come without a host.
	http10 bool
}

// gate is the configuration of a handler in the form the decision uses.
type gate struct {
	scope    Scope
	groups   map[string]int // share group of a name, from 1
	missing  MissingSNI
	gateways []netip.Prefix
}

// decide says whether req may travel on its connection, and which host that was
// decided for: the canonical name, or the one sent where it has none.
func (g *gate) decide(s *authority.Snapshot, req *request) (Reason, string) {
	// Step 1. Without TLS there was no name to choose a policy by.
	if !req.tls {
		return NoTLS, req.host
	}
	// An invalid SNI equals no host, but it is not a missing one: it did select
	// a policy and a certificate, in ways that no lookup here can follow.
	sni, sniErr := hostname.ParseSNI(req.sni)
	hasSNI := req.sni != ""
	host, hostErr := sni, sniErr
	if sniErr != nil || req.host != req.sni {
		host, hostErr = hostname.Parse(req.host)
	}
	odd := hostErr == nil && misrouted(s, req.host, host)

	// A forward proxy must not answer 421 (RFC 9110 section 15.5.20). Its
	// targets are hosts that are not ours; it is still not to reach a site that
	// asks for client certificates around those.
	if req.forward && hostErr == nil && !odd && !s.NamesHost(host) {
		if !s.AsksClientCert(host) || (!hasSNI || sniErr == nil) && s.SameClientAuth(sni, host) {
			return ForwardProxy, host
		}
	}

	// Step 2. A trusted gateway answers for its clients' connections (RFC 9110
	// section 7.4).
	if g.trusts(req.remoteAddr) {
		return TrustedGateway, cmp.Or(host, req.host)
	}

	// Step 3. What has no single host cannot be right on any connection.
	if req.host == "" && req.http10 {
		// HTTP/1.0 without Host means the host of the connection, but Caddy
		// routes it as no host: that must come to the same.
		if hasSNI && (sniErr != nil || !s.SameRoutes(sni, "")) || s.NamesHost("") {
			return EmptyHost, ""
		}
		host, hostErr = sni, nil
	}
	switch {
	case odd:
		return OddHost, req.host
	case hostErr == nil:
	case req.host == "":
		return EmptyHost, ""
	default:
		return InvalidHost, req.host
	}
	for _, field := range req.hostField {
		if other, err := hostname.Parse(field); err != nil || other != host {
			return TwoHosts, host
		}
	}

	// Step 4.
	if !hasSNI {
		return g.withoutSNI(s, host), host
	}
	// Step 5.
	if sniErr == nil && sni == host {
		return SameHost, host
	}
	// Step 6.
	if group := g.groups[host]; group != 0 && g.groups[sni] == group {
		return Shared, host
	}
	// Step 7.
	switch {
	case g.scope == ScopeSNI || sniErr != nil:
		return OtherHost, host
	case g.scope == ScopeSite && !s.SameSite(sni, host):
		return OtherSite, host
	case g.scope == ScopeCertificate && !s.CertificateCovers(sni, host):
		return NotCovered, host
	case !s.SamePolicy(sni, host):
		return OtherPolicy, host
	case g.scope == ScopeSite:
		return SameSite, host
	default:
		return Covered, host
	}
}

// misrouted tells whether Caddy routes a host, as it was sent, elsewhere than its
// canonical name. Such a request is judged as one host and would be
// answered as another.
func misrouted(s *authority.Snapshot, sent, canonical string) bool {
	if sent == canonical || strings.EqualFold(sent, canonical) {
		return false
	}
	routed := hostname.Routed(sent)
	return routed != canonical && !s.SameRoutes(routed, canonical)
}

func (g *gate) withoutSNI(s *authority.Snapshot, host string) Reason {
	switch {
	case g.missing == MissingSNIReject:
		return NoSNIRefused
	case g.missing == MissingSNIAccept || s.SamePolicyWithoutSNI(host):
		return NoSNI
	default:
		return NoSNIPolicy
	}
}

// trusts tells whether remoteAddr is in a trusted gateway's range. An address
// that does not parse (a unix socket's) is not.
func (g *gate) trusts(remoteAddr string) bool {
	if len(g.gateways) == 0 {
		return false
	}
	addrPort, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	addr := addrPort.Addr().Unmap().WithZone("")
	for _, prefix := range g.gateways {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// accepts is [authority.Guard]'s Accepts.
func (g *gate) accepts(s *authority.Snapshot, sni, host string) bool {
	peer := gate{scope: g.scope, groups: g.groups, missing: g.missing}
	reason, _ := peer.decide(s, &request{tls: true, sni: sni, host: host})
	return reason.Status() == 0
}
