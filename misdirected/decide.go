package misdirected

import (
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// A Reason says why a request passes or is refused. The list is closed: metrics
// and placeholders take their values from it.
type Reason uint8

// The reasons, in the order of the decision's steps.
const (
	undecided Reason = iota
	NoTLS
	TLSHidden
	ForwardProxy
	TrustedGateway
	EmptyHost
	InvalidHost
	OddHost
	TwoHosts
	NoClientCert
	NoSNI
	NoSNIRefused
	NoSNIPolicy
	NoHost
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

// reasons holds what follows from each reason: the status to refuse with, 0 to
// pass, the outcome it is counted as, and what it means.
var reasons = [reasonCount]struct {
	text    string
	status  int
	outcome outcome
	meaning string
}{
	NoTLS:          {"no_tls", 0, uncounted, "the listener has no TLS"},
	TLSHidden:      {"tls_hidden", http.StatusMisdirectedRequest, misdirected, "a listener wrapper hides the TLS connection, so its SNI is not known"},
	ForwardProxy:   {"forward_proxy", 0, exempt, "it is a request to a forward proxy"},
	TrustedGateway: {"trusted_gateway", 0, exempt, "the peer is a trusted gateway"},
	EmptyHost:      {"empty_host", http.StatusBadRequest, badHost, "there is no host, and a site or a TLS connection policy may depend on it"},
	InvalidHost:    {"invalid_host", http.StatusBadRequest, badHost, "the host is no host name"},
	OddHost:        {"odd_host", http.StatusBadRequest, badHost, "the host is spelled so that Caddy routes it to another site than its canonical name"},
	TwoHosts:       {"two_hosts", http.StatusBadRequest, badHost, ":authority and Host name different hosts"},
	NoClientCert:   {"no_client_cert", http.StatusMisdirectedRequest, misdirected, "the connection shows no client certificate, and the host requires one or has no TLS connection policy"},
	NoSNI:          {"no_sni", 0, noSNI, "there is no SNI, and missing_sni lets the host pass"},
	NoSNIRefused:   {"no_sni_refused", http.StatusMisdirectedRequest, misdirected, "there is no SNI, and missing_sni is reject"},
	NoSNIPolicy:    {"no_sni_other_policy", http.StatusMisdirectedRequest, misdirected, "there is no SNI, and the host has another TLS connection policy"},
	NoHost:         {"no_host", 0, direct, "HTTP/1.0 names no host, and neither sites nor TLS connection policies depend on it"},
	SameHost:       {"same_host", 0, direct, "host and SNI are equal"},
	Shared:         {"shared", 0, shared, "one share group has both"},
	OtherHost:      {"other_host", http.StatusMisdirectedRequest, misdirected, "the host is not the SNI"},
	SameSite:       {"same_site", 0, coalescedSite, "both have the same site and TLS connection policy"},
	OtherSite:      {"other_site", http.StatusMisdirectedRequest, misdirected, "they have different sites"},
	Covered:        {"covered", 0, coalescedCertificate, "the certificate for the SNI covers the host, and both have the same TLS connection policy"},
	NotCovered:     {"not_covered", http.StatusMisdirectedRequest, misdirected, "the certificate for the SNI does not cover the host"},
	OtherPolicy:    {"other_policy", http.StatusMisdirectedRequest, misdirected, "they have different TLS connection policies"},
}

// String is the reason as placeholders and logs have it.
func (r Reason) String() string { return reasons[r].text }

// Status is the HTTP status to refuse with: 421, or 400 where no other
// connection would help either; 0 lets the request pass.
func (r Reason) Status() int { return reasons[r].status }

// gate is the configuration of a handler in the form the decision uses.
type gate struct {
	scope    Scope
	groups   map[string]int // share group of a name, from 1
	missing  MissingSNI
	gateways caddyhttp.IPRangeSource
}

// A step is one rule of the decision.
type step struct {
	rule string
	// judge returns one of finds, or undecided where the rule does not apply.
	judge func(*gate, *authority.Snapshot, asked) Reason
	finds []Reason
}

// steps are the rules, in order. The first that applies decides, and the last one
// always does. decide, explain and the page in docs all go by this table.
var steps = [...]step{
	{"no TLS: passes on a listener without TLS, else 421", (*gate).byLayer, []Reason{NoTLS, TLSHidden}},
	{"a request to a forward proxy: passes where one can run", (*gate).byForwardProxy, []Reason{ForwardProxy}},
	{"the peer is one of trusted_gateways: passes", (*gate).byGateway, []Reason{TrustedGateway}},
	{"the host is missing, invalid, ambiguous or oddly spelled: 400", (*gate).byForm, []Reason{EmptyHost, InvalidHost, OddHost, TwoHosts}},
	{"the host requires a client certificate, and the connection shows none: 421", (*gate).byClientCert, []Reason{NoClientCert}},
	{"no SNI: as missing_sni says", (*gate).byMissingSNI, []Reason{NoSNI, NoSNIRefused, NoSNIPolicy}},
	{"host and SNI are equal, or HTTP/1.0 names no host: passes", (*gate).byEquality, []Reason{NoHost, SameHost}},
	{"one share group has both: passes", (*gate).byShare, []Reason{Shared}},
	{"else as scope says: passes or 421", (*gate).byScope, []Reason{OtherHost, SameSite, OtherSite, Covered, NotCovered, OtherPolicy}},
}

// decide says whether a request may travel on its connection. It gets a copy of
// what is asked, so that this need not be allocated.
func (g *gate) decide(s *authority.Snapshot, a asked) Reason {
	for i := range steps {
		if reason := steps[i].judge(g, s, a); reason != undecided {
			return reason
		}
	}
	return OtherHost
}

// Without TLS there was no name to choose a policy by. Where a listener wrapper
// hides the TLS connection, there was one, and perhaps a client certificate that
// should have been asked for: nobody can tell.
func (g *gate) byLayer(_ *authority.Snapshot, a asked) Reason {
	switch a.layer {
	case noTLS:
		return NoTLS
	case hiddenTLS:
		return TLSHidden
	}
	return undecided
}

// forwardProxy is the handler of the forwardproxy plugin.
const forwardProxy = "http.handlers.forward_proxy"

// A forward proxy must not answer 421 (RFC 9110 section 15.5.20). Its targets are
// hosts that are not ours. The form of a request alone makes no proxy of an
// origin server, which must accept absolute-form as well (RFC 9112 section 3.2.2):
// one must be there, in front of the gate or behind it.
func (g *gate) byForwardProxy(s *authority.Snapshot, a asked) Reason {
	if !a.forward || a.host.kind != valid || a.odd || s.NamesHostAnywhere(a.host.canonical) {
		return undecided
	}
	if s.HandlerRuns(a.host.canonical, forwardProxy) && a.keepsClientAuth(s) {
		return ForwardProxy
	}
	return undecided
}

// A trusted gateway answers for its clients' connections (RFC 9110 section 7.4),
// but not for their client certificates: the ranges of a CDN say nothing about
// which of its customers asked. Until the handshake is complete, nobody has
// validated the peer's address: that of early data over QUIC can be made up (RFC
// 9001 section 9.2).
func (g *gate) byGateway(s *authority.Snapshot, a asked) Reason {
	if g.gateways != nil && !a.early() && g.trusts(a.r) && a.keepsClientAuth(s) {
		return TrustedGateway
	}
	return undecided
}

// What has no single host cannot be right on any connection. HTTP/1.0 without Host
// names nothing that could be misdirected, as long as all that Caddy chooses by a
// name comes to what it chooses without one.
func (g *gate) byForm(s *authority.Snapshot, a asked) Reason {
	switch {
	case a.odd:
		return OddHost
	case a.host.kind == invalid:
		return InvalidHost
	case a.two:
		return TwoHosts
	case a.host.kind == valid:
		return undecided
	case !a.http10 || a.sni.kind == invalid || s.NamesHostAnywhere("") || !s.UnnamedPolicy(a.sni.canonical):
		return EmptyHost
	}
	return undecided
}

// A connection without a client certificate for a host whose only TLS policy
// requires one was made for another host, or it began under an older
// configuration: HTTP/3 connections live through a reload. So was one whose
// certificate no CA has signed, for a host whose policy wants that, or one that was
// checked against other CAs or by other verifiers. Neither share nor
// missing_sni is meant to let it in. Nor are they for a host that has no TLS policy,
// or one that drops its connections: a catch-all may serve it that asks others for
// their certificates. Where policies ask some clients of the host only, by their
// addresses, a client must show what it would have to show on a connection of its own
// for the host. Early data does not do there: nobody has validated its address.
func (g *gate) byClientCert(s *authority.Snapshot, a asked) Reason {
	host := a.host.canonical
	switch {
	case a.foreign, a.anonymous && (s.Barred(host) || a.early() && s.AsksByAddress(host)):
		return NoClientCert
	case !s.AsksSome():
		return undecided
	case s.Owes(a.r, host, a.shown) || a.r == nil && a.anonymous && s.MayOwe(a.sni.canonical, host):
		return NoClientCert
	}
	return undecided
}

func (g *gate) byMissingSNI(s *authority.Snapshot, a asked) Reason {
	switch {
	case a.sni.kind != absent:
		return undecided
	case g.missing == MissingSNIReject:
		return NoSNIRefused
	case g.missing == MissingSNIAccept || s.SamePolicyWithoutSNI(a.host.canonical):
		return NoSNI
	}
	return NoSNIPolicy
}

func (g *gate) byEquality(_ *authority.Snapshot, a asked) Reason {
	switch {
	case a.host.kind == absent:
		return NoHost
	case a.sni.kind == valid && a.sni.canonical == a.host.canonical:
		return SameHost
	}
	return undecided
}

func (g *gate) byShare(_ *authority.Snapshot, a asked) Reason {
	if group := g.groups[a.host.canonical]; group != 0 && a.sni.kind == valid && g.groups[a.sni.canonical] == group {
		return Shared
	}
	return undecided
}

func (g *gate) byScope(s *authority.Snapshot, a asked) Reason {
	sni, host := a.sni.canonical, a.host.canonical
	switch {
	case g.scope == ScopeSNI || a.sni.kind == invalid:
		return OtherHost
	case g.scope == ScopeSite && !s.SameSite(sni, host):
		return OtherSite
	case g.scope == ScopeCertificate && !s.CertificateCovers(sni, host):
		return NotCovered
	case !s.SamePolicy(sni, host):
		return OtherPolicy
	case g.scope == ScopeSite:
		return SameSite
	}
	return Covered
}

// trusts tells whether the other end of the TLS connection is in a trusted
// gateway's range. An address that does not parse (a unix socket's) is not.
func (g *gate) trusts(r *http.Request) bool {
	addrPort, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	addr := addrPort.Addr().Unmap().WithZone("")
	for _, prefix := range g.gateways.GetIPRanges(r) {
		if unmapped(prefix).Contains(addr) {
			return true
		}
	}
	return false
}

// unmapped turns a range of IPv4-mapped addresses into the IPv4 range, since
// that is what peers are compared as.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// accepts is [authority.Guard]'s Accepts.
func (g *gate) accepts(s *authority.Snapshot, sni, host string) bool {
	peer := gate{scope: g.scope, groups: g.groups, missing: g.missing}
	a := asked{sni: name{valid, sni, sni}, host: name{valid, host, host}}
	if sni == "" {
		a.sni = name{}
	}
	a.suppose(s)
	return peer.decide(s, a).Status() == 0
}
