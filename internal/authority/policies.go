package authority

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// policies are the TLS connection policies of a server, as they were before
// their own provisioning took them apart.
type policies struct {
	list []policy
	// bySNI finds the policies that can be selected for a server name. A
	// policy with matchers on more than SNI may or may not be selected, and so
	// may those behind it.
	bySNI table
	// unlisted is a name that no list of names has.
	unlisted string
	// asksAnybody: a policy asks for client certificates.
	asksAnybody bool
	// simple: policies match by the SNI alone, and none drops connections. So each
	// name has one policy, or none.
	simple bool
	// drops: a policy drops connections.
	drops bool
	// looking: some policy looks at more than a list of names, and all that policies
	// look at is known here.
	looking bool
	// unmatched are the wildcards with client authentication in SNI lists that
	// Caddy can never match.
	unmatched []string
}

// A policy is what two names must have in common for a connection to be right
// for both. Equal numbers mean equal settings.
type policy struct {
	// settings is everything but the matchers, and default_sni: that acts on
	// connections without SNI alone, which have no name to compare.
	// fallback_sni is no part of it either; see fallback.
	settings int
	// fallback is settings and fallback_sni, which acts on names without a
	// certificate.
	fallback   int
	unnamed    int // settings, what chooses a certificate by name aside
	clientAuth int // client authentication; 0 is none
	// requires: a connection that shows no client certificate is refused.
	requires bool
	// verifies: so is one whose client certificate no trusted CA has signed.
	verifies bool
	// signed: a client certificate, if there is one, must be signed by a trusted CA.
	signed bool
	// trust is what client certificates are checked against: CAs, verifiers. checks:
	// they are; where not, any certificate will do.
	trust     int
	checks    bool
	selection *caddytls.CustomCertSelectionPolicy
	patterns  []string // the SNI list
	drop      bool     // no request ever comes over such a connection
	looks     looks    // of the matchers, apart from the SNI list
	byAddress bool     // they look at the client's address, or may
	looking   bool     // they look at more than a list of names
}

// copyPolicies must be called before the policies are provisioned, since that
// clears matchers, CAs and verifiers.
func copyPolicies(from caddytls.ConnectionPolicies) (*policies, error) {
	ps := &policies{simple: true}
	numbers, known := make(numbering), true
	for i, original := range from {
		p := policy{selection: original.CertSelection, drop: original.Drop, looks: looksOf(original.MatchersRaw, true)}
		p.looking = looksFurther(original.MatchersRaw)
		p.byAddress = !onlyOf(byNames, original.MatchersRaw)
		known = known && onlyOf(slices.Concat(byNames, byAddresses), original.MatchersRaw)
		ps.looking = ps.looking || p.looking
		ps.drops = ps.drops || p.drop
		ps.simple = ps.simple && !p.drop && !p.looking
		settings := settingsOf(original)
		var errs [5]error
		if auth := settings.ClientAuthentication; auth != nil {
			p.clientAuth, errs[0] = numbers.of(auth)
			p.trust, errs[4] = numbers.of(trustOf(auth))
			p.requires, p.verifies = requires(auth), verifies(auth)
			p.signed = p.verifies || auth.Mode == "verify_if_given"
			p.checks = p.signed || verifiesOtherwise(auth)
			ps.asksAnybody = true
		}
		p.fallback, errs[1] = numbers.of(&settings)
		settings.FallbackSNI = ""
		p.settings, errs[2] = numbers.of(&settings)
		settings.CertSelection = nil
		p.unnamed, errs[3] = numbers.of(&settings)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("reading TLS connection policy %d: %w", i, err)
		}
		var unmatched []string
		var err error
		if p.patterns, unmatched, err = ps.index(original.MatchersRaw); err != nil {
			return nil, fmt.Errorf("reading matchers of TLS connection policy %d: %w", i, err)
		}
		if p.clientAuth != 0 {
			ps.unmatched = append(ps.unmatched, unmatched...)
		}
		ps.list = append(ps.list, p)
	}
	ps.looking = ps.looking && known
	ps.unlisted = unnamed(&ps.bySNI)
	return ps, nil
}

// A numbering gives equal settings the same number, above zero.
type numbering map[string]int

func (ns numbering) of(settings any) (int, error) {
	text, err := json.Marshal(settings)
	if err != nil {
		return 0, err
	}
	n, ok := ns[string(text)]
	if !ok {
		n = len(ns) + 1
		ns[string(text)] = n
	}
	return n, nil
}

// index adds a policy to bySNI and returns its SNI list, apart from what can
// never match.
func (ps *policies) index(matchers caddy.ModuleMap) (patterns, unmatched []string, err error) {
	raw, hasSNI := matchers["sni"]
	ps.bySNI.addEntry(true)
	if !hasSNI {
		ps.bySNI.addAny(len(matchers) == 0)
		return nil, nil, nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil {
		return nil, nil, err
	}
	repl := caddy.NewReplacer()
	for _, name := range names {
		pattern := asciiPattern(repl.ReplaceAll(name, ""))
		if canMatchSNI(pattern) {
			ps.bySNI.add(pattern, len(matchers) == 1)
			patterns = append(patterns, pattern)
		} else {
			unmatched = append(unmatched, pattern)
		}
	}
	return patterns, unmatched, nil
}

// canMatchSNI tells whether Caddy's SNI matcher could ever match pattern:
// unlike host matchers, it takes wildcards only in a row from the left.
func canMatchSNI(pattern string) bool {
	rest := pattern
	for strings.HasPrefix(rest, "*.") {
		rest = rest[2:]
	}
	return rest == "*" || !strings.Contains(rest, "*")
}

// asciiPattern is how Caddy's TLS matchers read a name (caddytls
// asciiServerNameForMatch).
func asciiPattern(name string) string {
	labels := strings.Split(name, ".")
	for i, label := range labels {
		ascii, err := idna.ToASCII(label)
		if err != nil {
			return strings.ToLower(name)
		}
		labels[i] = ascii
	}
	return strings.ToLower(strings.Join(labels, "."))
}

// find puts c in front of the policies that can be selected for a server name; "" is
// none sent, and matches no wildcard, unlike an empty Host.
func (ps *policies) find(c *cursor, sni string) {
	if sni == "" {
		ps.bySNI.findExact(c, "")
	} else {
		ps.bySNI.find(c, sni)
	}
}

// findHost is find for what clients send who ask for host: no name for an address.
func (ps *policies) findHost(c *cursor, host string) {
	if hostname.IsIP(host) {
		host = ""
	}
	ps.find(c, host)
}

// A field is one number of a policy.
type field func(*policy) int

func (p *policy) bySettings() int   { return p.settings }
func (p *policy) byFallback() int   { return p.fallback }
func (p *policy) byUnnamed() int    { return p.unnamed }
func (p *policy) byClientAuth() int { return p.clientAuth }
func (p *policy) byTrust() int      { return p.trust }

func (p *policy) byRequires() int { return bit(p.requires) }
func (p *policy) byAsksOnly() int { return bit(p.clientAuth != 0 && !p.requires) }
func (p *policy) byVerifies() int { return bit(p.verifies) }
func (p *policy) bySigned() int   { return bit(p.signed) }
func (p *policy) byChecks() int   { return bit(p.checks) }

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// agree is a running answer to whether all policies seen have one field equal.
type agree struct {
	value  int
	seen   bool
	differ bool
}

func (a *agree) add(v int) {
	a.differ = a.differ || a.seen && v != a.value
	a.value, a.seen = v, true
}

// ofSNI adds the policies a connection with that server name can have.
func (ps *policies) ofSNI(a *agree, by field, sni string) {
	var c cursor
	ps.find(&c, sni)
	for r, ok := c.next(); ok; r, ok = c.next() {
		if p := &ps.list[r.index]; !p.drop {
			a.add(by(p))
		}
	}
}

// ofHost adds the policies that a proper connection for host can have. For an
// IP address clients send no server name (RFC 6066 section 3), so it has the
// policy of none; only a policy that lists the address and asks for client
// certificates counts as well, since the operator meant it, though no client
// will ever select it.
func (ps *policies) ofHost(a *agree, by field, host string) {
	if !hostname.IsIP(host) {
		ps.ofSNI(a, by, host)
		return
	}
	ps.ofSNI(a, by, "")
	if !ps.asksAnybody {
		return
	}
	var c cursor
	ps.find(&c, host)
	for r, ok := c.next(); ok; r, ok = c.next() {
		if p := &ps.list[r.index]; p.clientAuth != 0 && !p.drop {
			a.add(by(p))
		}
	}
}

// same tells whether a connection with that SNI has, and a proper connection
// for host would have, the same field of their policies, whichever is selected.
func (ps *policies) same(by field, sni, host string) bool {
	var ofSNI, ofHost agree
	ps.ofSNI(&ofSNI, by, sni)
	ps.ofHost(&ofHost, by, host)
	if !ofSNI.seen || !ofHost.seen {
		return false
	}
	equal := !ofSNI.differ && !ofHost.differ && ofSNI.value == ofHost.value
	if ps.simple || sni == host && host != "" {
		return equal
	}
	sent := host
	if hostname.IsIP(host) {
		sent = ""
	}
	one, lost := ps.compare(sni, sent)
	if one && !equal && sent != host {
		one, _ = ps.compare(sent, host)
	}
	return !lost && (equal || one)
}
