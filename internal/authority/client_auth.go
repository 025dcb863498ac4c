package authority

import (
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// requires tells whether an active client authentication refuses connections
// that show no certificate. Without a mode it does (caddytls
// ConfigureTLSConfig).
func requires(auth *caddytls.ClientAuthentication) bool {
	switch auth.Mode {
	case "request", "verify_if_given":
		return false
	}
	return true
}

// verifies tells whether an active client authentication refuses connections whose
// certificate no trusted CA has signed. Without a mode it does if it has a CA.
func verifies(auth *caddytls.ClientAuthentication) bool {
	//lint:ignore SA1019 configurations have these still
	hasCA := auth.CARaw != nil || len(auth.TrustedCACerts) > 0 || len(auth.TrustedCACertPEMFiles) > 0 || len(auth.TrustedLeafCerts) > 0
	return auth.Mode == "require_and_verify" || auth.Mode == "" && hasCA
}

// verifiesOtherwise tells whether an active client authentication has certificates
// checked by more than their CA.
func verifiesOtherwise(auth *caddytls.ClientAuthentication) bool {
	//lint:ignore SA1019 configurations have these still
	return len(auth.VerifiersRaw) > 0 || len(auth.TrustedLeafCerts) > 0
}

// clientAuth tells whether a proper connection for host can be asked for a
// client certificate.
func (ps *policies) clientAuth(host string) bool {
	if !ps.asksAnybody {
		return false
	}
	var a agree
	ps.ofHost(&a, (*policy).byClientAuth, host)
	return a.differ || a.value != 0
}

// requiresClientCert tells whether each connection for host has shown a client
// certificate, also one of a client that sends an address as its server name.
func (ps *policies) requiresClientCert(host string) bool {
	return ps.all((*policy).byRequires, host)
}

// verifiesClientCert tells whether each proper connection for host has shown a
// client certificate that a trusted CA has signed.
func (ps *policies) verifiesClientCert(host string) bool {
	return ps.all((*policy).byVerifies, host)
}

// all tells whether a field of client authentication is 1 in each policy that a
// connection for host can have, also one of a client that sends an address as its
// server name.
func (ps *policies) all(by field, host string) bool {
	if !ps.asksAnybody {
		return false
	}
	var a agree
	ps.ofSNI(&a, by, host)
	if hostname.IsIP(host) {
		ps.ofSNI(&a, by, "")
	}
	return a.seen && !a.differ && a.value == 1
}

// connects tells whether a proper connection for host can come about.
func (ps *policies) connects(host string) bool {
	var a agree
	ps.ofHost(&a, (*policy).bySettings, host)
	return a.seen
}

// some tells whether a field is 1 in a policy that a proper connection for host can
// have.
func (ps *policies) some(by field, host string) bool {
	var a agree
	ps.ofHost(&a, by, host)
	return a.differ || a.value == 1
}

// barred tells whether only a connection that shows a client certificate is right
// for host: its only policy requires one. Where every connection for host is
// dropped or has no policy, none is right, and its site may be one that others
// reach by their certificates.
func (ps *policies) barred(host string) bool {
	if !ps.asksAnybody {
		return false
	}
	var a agree
	ps.ofHost(&a, (*policy).byRequires, host)
	return !a.seen || ps.requiresClientCert(host)
}

// dropped tells whether a proper connection for host may not come about: it has
// no policy, or one that may drop it.
func (ps *policies) dropped(host string) bool {
	var c cursor
	ps.findHost(&c, host)
	seen := false
	for r, ok := c.next(); ok; r, ok = c.next() {
		if ps.list[r.index].drop {
			return true
		}
		seen = true
	}
	return !seen
}

// keepsClientAuth tells whether a request for host on a connection with that SNI
// leads around no client-certificate rule: a proper connection for host comes
// about, and is asked for no certificate, or in the same way as this one.
func (ps *policies) keepsClientAuth(sni, host string) bool {
	return !ps.dropped(host) && (!ps.clientAuth(host) || ps.same((*policy).byClientAuth, sni, host))
}

// asksByAddress tells whether it depends on the client's address what a proper
// connection for host is asked for, or may.
func (ps *policies) asksByAddress(host string) bool {
	if ps.simple || !ps.clientAuth(host) {
		return false
	}
	var c cursor
	ps.findHost(&c, host)
	for r, ok := c.next(); ok; r, ok = c.next() {
		if ps.list[r.index].byAddress {
			return true
		}
	}
	return false
}

// clientAuthDiffers tells whether some connections are asked for a client
// certificate and others are not, or in another way.
func (ps *policies) clientAuthDiffers() bool {
	var a agree
	for i := range ps.list {
		if p := &ps.list[i]; !p.drop {
			a.add(p.clientAuth)
		}
	}
	return a.differ
}
