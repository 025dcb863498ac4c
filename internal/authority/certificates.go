package authority

import (
	"crypto/x509"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// certificates says which names the certificate covers that is presented for
// an SNI. It asks Caddy's certificate cache, which has no side effects.
type certificates struct {
	policies *policies
	// automation holds the automation policies, in order, if one of them has a
	// certificate manager.
	automation []*caddytls.AutomationPolicy
	// find is caddytls.AllMatchingCertificates.
	find func(name string) []certmagic.Certificate

	// kept are the answers for the names that clients send, since asking
	// allocates. They are used until their turn is over.
	kept  *cache[string, presented]
	turns *turns
	// read are what certificates cover, so that a made-up name under a wildcard
	// does not cost reading a certificate.
	read *cache[*x509.Certificate, coverage]
	seed maphash.Seed
}

// hash stands for certificates in a key. They must be compared all the same.
func (cs *certificates) hash(leaves []*x509.Certificate) (sum uint64) {
	for _, leaf := range leaves {
		sum = sum*31 + maphash.Comparable(cs.seed, leaf)
	}
	return sum
}

// freshFor is how long an answer may be old. A connection lives longer than
// that, and nothing tells what was presented on it when it began, so a renewed
// certificate counts for connections that began under the one before it too.
const freshFor = time.Second

// turns says how old answers may be without a look at a clock, which would cost a
// request as much as all else that is asked here. A turn ends freshFor after something
// was asked for the first time in it.
type turns struct {
	now    atomic.Int64
	ending atomic.Bool
}

// take returns the turn of an answer that is found from now on. Whoever comes while one
// ends may get the one that is over: the next request asks again.
func (t *turns) take() int64 {
	now := t.now.Load()
	if t.ending.CompareAndSwap(false, true) {
		time.AfterFunc(freshFor, func() {
			t.ending.Store(false)
			t.now.Add(1)
		})
	}
	return now
}

// presented is what can be presented for one SNI, and what follows from it.
type presented struct {
	name   string
	leaves []*x509.Certificate
	covers []*coverage // of each leaf
	// valid are all certificates in the cache that are valid for the name,
	// presented for it or not.
	valid []*x509.Certificate
	turn  int64

	// What [Snapshot.Refuses], [Snapshot.RefusedElsewhere] and [Snapshot.Astray] say of
	// the name.
	refuses, refusedElsewhere, astray atomic.Pointer[Refusal]
}

// coverage holds the names of one certificate: DNS names, wildcards as what
// follows "*.", and addresses.
type coverage struct {
	names, parents, addrs map[string]struct{}
	// The same in alphabetical order: names with addresses, and parents.
	spelled, under []string
}

func newCertificates(ps *policies, tls *caddytls.TLS) *certificates {
	cs := &certificates{
		policies: ps,
		find:     caddytls.AllMatchingCertificates,
		kept:     newCache[string, presented](512),
		turns:    new(turns),
		read:     newCache[*x509.Certificate, coverage](256),
		seed:     maphash.MakeSeed(),
	}
	if tls.Automation != nil && slices.ContainsFunc(tls.Automation.Policies, func(p *caddytls.AutomationPolicy) bool { return len(p.Managers) > 0 }) {
		cs.automation = tls.Automation.Policies
	}
	return cs
}

// cover tells whether host is covered whichever certificate is presented for
// sni, which must not be empty.
func (cs *certificates) cover(sni, host string) bool {
	return cs.present(sni).cover(host)
}

func (p *presented) cover(host string) bool {
	for _, c := range p.covers {
		if !c.has(host) {
			return false
		}
	}
	return len(p.covers) > 0
}

// present returns what can be presented for sni, at most freshFor old.
func (cs *certificates) present(sni string) *presented {
	old := cs.kept.get(sni)
	if old != nil && old.turn == cs.turns.now.Load() {
		return old
	}
	// A name can be a small part of a large header, which must not be kept.
	p := cs.ask(strings.Clone(sni))
	// If this fails, somebody else was quicker. That may have been refresh: what
	// it saw is newer than p and must stay.
	cs.kept.swap(p.name, old, p)
	return p
}

// refresh returns what can be presented for sni now, and lets present know.
func (cs *certificates) refresh(sni string) *presented {
	sni = strings.Clone(sni)
	for {
		old := cs.kept.get(sni)
		p := cs.ask(sni)
		if cs.kept.swap(sni, old, p) {
			return p
		}
	}
}

func (cs *certificates) ask(sni string) *presented {
	p := &presented{name: sni, turn: cs.turns.take()}
	found := cs.find(sni)
	p.leaves = cs.candidates(sni, found)
	for _, leaf := range p.leaves {
		p.covers = append(p.covers, cs.coverage(leaf))
	}
	for _, cert := range found {
		if cert.Leaf != nil && cs.coverage(cert.Leaf).has(sni) {
			p.valid = append(p.valid, cert.Leaf)
		}
	}
	return p
}

// coverage returns what a certificate covers.
func (cs *certificates) coverage(leaf *x509.Certificate) *coverage {
	c := cs.read.get(leaf)
	if c == nil {
		c = newCoverage(leaf)
		cs.read.swap(leaf, nil, c)
	}
	return c
}

// candidates returns the certificates that Caddy chooses among for a server
// name: those for the name itself, else those for the first wildcard form of
// it that has any; as certmagic has it, "*.b.c", "*.*.c" and so on.
//
// It returns none where the cache does not tell: when a policy for the name
// hands out a default certificate, or a certificate manager is asked.
//
// found are all certificates in the cache that match the name.
func (cs *certificates) candidates(sni string, found []certmagic.Certificate) (leaves []*x509.Certificate) {
	if len(found) == 0 || cs.managed(sni) {
		return nil
	}
	var c cursor
	cs.policies.find(&c, sni)
	for r, ok := c.next(); ok; r, ok = c.next() {
		policy := &cs.policies.list[r.index]
		if policy.drop {
			continue
		}
		chosen := choose(found, sni, policy.selection)
		if len(chosen) == 0 {
			return nil
		}
		for _, cert := range chosen {
			if cert.Leaf == nil {
				return nil
			}
			if !slices.Contains(leaves, cert.Leaf) {
				leaves = append(leaves, cert.Leaf)
			}
		}
	}
	return leaves
}

// choose narrows found, all certificates that match a name, to those that a
// policy with that certificate selection would present.
//
// With a selection, certmagic goes on to the wildcard forms when it takes none
// of the certificates for the name itself, and where there are none it selects
// from its whole cache. A client only stays if what it gets is valid for the
// name it asked for, so the matching ones are all that count.
func choose(found []certmagic.Certificate, name string, selection *caddytls.CustomCertSelectionPolicy) (chosen []certmagic.Certificate) {
	labels := strings.Split(name, ".")
	for i := -1; i < len(labels); i++ {
		if i >= 0 {
			labels[i] = "*"
		}
		form := strings.Join(labels, ".")
		for _, cert := range found {
			if !slices.Contains(cert.Names, form) {
				continue
			}
			if selection != nil {
				// one choice is taken or not without looking at a hello
				if _, err := selection.SelectCertificate(nil, []certmagic.Certificate{cert}); err != nil {
					continue
				}
			}
			chosen = append(chosen, cert)
		}
		if len(chosen) > 0 && (selection == nil || i < 0) {
			break
		}
	}
	return inTime(chosen)
}

// inTime leaves out the certificates that are over, or not valid yet, if there are
// others. Caddy presents them only to clients that support none of the others, and these
// do not stay either.
func inTime(certs []certmagic.Certificate) []certmagic.Certificate {
	now := time.Now()
	late := func(cert certmagic.Certificate) bool {
		return cert.Leaf != nil && (now.Before(cert.Leaf.NotBefore) || now.After(cert.Leaf.NotAfter))
	}
	if !slices.ContainsFunc(certs, late) || !slices.ContainsFunc(certs, func(cert certmagic.Certificate) bool { return !late(cert) }) {
		return certs
	}
	return slices.DeleteFunc(certs, late)
}

// managed tells whether certificates for a name come from a certificate
// manager, whose answers are not in the cache (caddytls
// getAutomationPolicyForName).
func (cs *certificates) managed(name string) bool {
	for _, policy := range cs.automation {
		subjects := policy.Subjects()
		if len(subjects) == 0 || slices.ContainsFunc(subjects, func(s string) bool { return certmagic.MatchWildcard(name, s) }) {
			return len(policy.Managers) > 0
		}
	}
	return false
}

// newCoverage reads the names a certificate is valid for: its alternative
// names only, never its common name (RFC 9525 section 2).
func newCoverage(leaf *x509.Certificate) *coverage {
	c := &coverage{names: make(map[string]struct{}), parents: make(map[string]struct{}), addrs: make(map[string]struct{})}
	for _, san := range leaf.DNSNames {
		if parent, ok := strings.CutPrefix(san, "*."); ok {
			if name, err := hostname.ParseName(parent); err == nil {
				c.parents[name] = struct{}{}
			}
		} else if name, err := hostname.ParseName(san); err == nil {
			c.names[name] = struct{}{}
		}
	}
	for _, ip := range leaf.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			c.addrs[addr.Unmap().String()] = struct{}{}
		}
	}
	c.spelled = slices.Sorted(maps.Keys(c.names))
	c.spelled = slices.AppendSeq(c.spelled, maps.Keys(c.addrs))
	slices.Sort(c.spelled[len(c.names):])
	c.under = slices.Sorted(maps.Keys(c.parents))
	return c
}

// has tells whether the certificate is valid for host (RFC 9525 section 6.3).
func (c *coverage) has(host string) bool {
	if c.lists(host) {
		return true
	}
	_, ok := c.parents[hostname.Parent(host)] // there is none for an address
	return ok
}

// lists tells whether the certificate has host itself among its names.
func (c *coverage) lists(host string) bool {
	names := c.names
	if hostname.IsIP(host) {
		names = c.addrs
	}
	_, ok := names[host]
	return ok
}
