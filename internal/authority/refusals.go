package authority

import (
	"crypto/x509"
	"slices"
	"sync"
	"time"
)

// A browser takes a connection for another host if the certificate covers that
// host. So a certificate that covers a host which is refused leads requests
// astray. This file answers whether there is one: with one wildcard certificate
// and 10 000 sites, that are as many hosts to ask on as many connections. What
// keeps it quick:
//
//   - The first host refused is answer enough.
//   - Only hosts that a guard is there for can be refused.
//   - Server names of one class ([sniClass]) with the same certificates get the
//     same answers, except that none is refused its own name.

// An Answer to a question about certificates.
type Answer uint8

// The answers.
const (
	No Answer = iota
	Yes
	// Unknown: the certificate is not in Caddy's cache, since a certificate
	// manager has it, or there is none (yet).
	Unknown
)

// String returns "no", "yes" or "unknown".
func (a Answer) String() string { return [...]string{"no", "yes", "unknown"}[a] }

// A Refusal is the answer to whether certificates lead requests to connections
// where they are refused, with one such request if the answer is yes.
type Refusal struct {
	Answer Answer
	// SNI and Host are those of the request. A name that the configuration does
	// not spell out is shown as a wildcard: *.example.com.
	SNI, Host string
}

// Refuses tells whether the certificate that is presented for an SNI covers a
// host of this server that is refused on the connection. If the answer is no,
// every host of this server that the certificate covers is accepted there.
//
// Refused means a 421 by a guard that does not only report, or by
// strict_sni_host. A hit in the cache allocates nothing. Certificates are read
// at most once a second for each SNI.
func (s *Snapshot) Refuses(sni string) Refusal {
	if sni == "" {
		return Refusal{Answer: Unknown}
	}
	return s.refuses(s.certificates.present(sni))
}

// RefusedElsewhere tells whether a request for host is refused on a connection
// for another host of this server, whose certificate covers this one.
//
// Unknown means that no certificate in the cache is valid for the host. The
// answer may be older than that of [Snapshot.Refuses] where it takes long to
// find: it is kept for a hundred times as long as that took.
func (s *Snapshot) RefusedElsewhere(host string) Refusal {
	return s.refusedElsewhere(s.certificates.present(host))
}

// Astray tells whether certificates lead requests astray where a host offers HTTP/3:
// [Snapshot.Refuses] of its own connections, or else [Snapshot.RefusedElsewhere].
func (s *Snapshot) Astray(host string) Refusal {
	p := s.certificates.present(host)
	if known := p.astray.Load(); known != nil {
		return *known
	}
	found := s.refuses(p)
	if found.Answer != Yes {
		found = found.Or(s.refusedElsewhere(p))
	}
	p.astray.Store(&found)
	return found
}

// Or is the one that says yes, or else does not say no.
func (r Refusal) Or(other Refusal) Refusal {
	if r.Answer == Yes || other.Answer == No {
		return r
	}
	return other
}

// refusedElsewhere is [Snapshot.RefusedElsewhere] for what is presented for a host.
func (s *Snapshot) refusedElsewhere(p *presented) Refusal {
	if known := p.refusedElsewhere.Load(); known != nil {
		return *known
	}
	found := s.refusals.elsewhere(s, p)
	p.refusedElsewhere.Store(&found)
	return found
}

// refuses is [Snapshot.Refuses] for what is presented for an SNI.
func (s *Snapshot) refuses(p *presented) Refusal {
	if known := p.refuses.Load(); known != nil {
		return *known
	}
	found := s.refusals.onConnection(s, p)
	p.refuses.Store(&found)
	return found
}

// refused tells whether a request for host is refused on a connection with that
// SNI.
func (s *Snapshot) refused(sni, host string) bool {
	switch {
	case sni == host || s.routes.of(host) == nil:
		return false
	case s.strictSNIHost:
		return true
	}
	refused := false
	s.guards.each(host, func(g *Guard, _ bool) bool {
		refused = !g.ReportOnly && !g.Accepts(s, sni, host)
		return !refused
	})
	return refused
}

// refusals finds and keeps the answers.
type refusals struct {
	under map[string]*underWildcard // by what the wildcard ends in
	// odd are the host patterns whose left-most label is no wildcard.
	odd []string
	// other is a label that the configuration does not name.
	other string

	byClass    *cache[refusalKey, classRefusals]
	presenters *cache[*x509.Certificate, presenters]
	mu         sync.Mutex // so that a crowd of requests finds an answer once
}

// underWildcard holds the exact names of the configuration under one wildcard,
// in alphabetical order.
type underWildcard struct {
	// refusable are those that a guard may refuse.
	refusable []string
	// groups are all of them, by class.
	groups [][]string
}

// A refusalKey is what the hosts refused on a connection depend on. The
// certificates are in it as a hash: the value has them.
type refusalKey struct {
	class  sniClass
	leaves uint64
}

// classRefusals are hosts refused on the connections of a class of server names.
type classRefusals struct {
	leaves []*x509.Certificate
	// hosts are two at most: one may be the SNI that is asked about.
	hosts []shownName
	// first is the SNI they were found for. It is no host of its own connection,
	// so another SNI has to judge it; then judged is true.
	first  string
	judged bool
	until  expiry
}

// A shownName is a host name, and how to show it.
type shownName struct{ name, shown string }

// onConnection answers [Snapshot.Refuses].
func (rs *refusals) onConnection(s *Snapshot, p *presented) Refusal {
	if len(p.leaves) == 0 {
		return Refusal{Answer: Unknown}
	}
	key := refusalKey{s.sniClass(p.name), s.certificates.hash(p.leaves)}
	found := rs.byClass.get(key)
	if r, ok := found.answer(p); ok {
		return r
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	found = rs.byClass.get(key)
	if r, ok := found.answer(p); ok {
		return r
	}
	made := rs.find(s, p)
	if found.holds(p) {
		made = found.judge(s, p)
	}
	rs.byClass.swap(key, found, made)
	r, _ := made.answer(p)
	return r
}

// holds tells whether what was found is about these certificates, and not over.
func (c *classRefusals) holds(p *presented) bool {
	return c != nil && slices.Equal(c.leaves, p.leaves) && !c.until.over()
}

// answer returns what is known for a name of the class, and false if that is not
// enough.
func (c *classRefusals) answer(p *presented) (Refusal, bool) {
	if !c.holds(p) {
		return Refusal{}, false
	}
	for _, host := range c.hosts {
		if host.name != p.name {
			return Refusal{Yes, p.name, host.shown}, true
		}
	}
	return Refusal{Answer: No}, c.judged || p.name == c.first
}

// find looks for hosts that are refused on a connection.
func (rs *refusals) find(s *Snapshot, p *presented) *classRefusals {
	c := &classRefusals{leaves: p.leaves, first: p.name, until: s.lasts()}
	for _, cover := range p.covers {
		rs.hosts(s, cover, func(host shownName) bool {
			if s.refused(p.name, host.name) && !slices.Contains(c.hosts, host) {
				c.hosts = append(c.hosts, host)
			}
			return len(c.hosts) < 2
		})
	}
	return c
}

// judge returns what is known with the first SNI judged as a host.
func (c *classRefusals) judge(s *Snapshot, p *presented) *classRefusals {
	judged := *c
	judged.judged = true
	covered := slices.ContainsFunc(p.covers, func(cover *coverage) bool { return cover.has(c.first) })
	if covered && s.refused(p.name, c.first) {
		judged.hosts = append(slices.Clip(c.hosts), shownName{c.first, c.first})
	}
	return &judged
}

// hosts calls f with the hosts of this server that a certificate covers and a
// guard may refuse, one for each class at least, until f returns false.
func (rs *refusals) hosts(s *Snapshot, c *coverage, f func(shownName) bool) {
	for _, name := range c.spelled {
		if s.routes.of(name) != nil && !f(shownName{name, name}) {
			return
		}
	}
	for _, parent := range c.under {
		if under := rs.under[parent]; under != nil {
			for _, name := range under.refusable {
				if !f(shownName{name, name}) {
					return
				}
			}
		}
		for _, name := range rs.unnamed(s, parent) {
			if !f(name) {
				return
			}
		}
	}
}

// unnamed returns made-up names under a wildcard, one for each way in which the
// server can treat a name that the configuration does not spell out.
func (rs *refusals) unnamed(s *Snapshot, parent string) (names []shownName) {
	add := func(label, shown string) {
		if name := label + "." + parent; s.routes.of(name) != nil {
			names = append(names, shownName{name, shown})
		}
	}
	add(rs.other, "*."+parent)
	for _, pattern := range rs.odd {
		if label, ok := under(pattern, parent); ok {
			add(label, label+"."+parent)
		}
	}
	return names
}

// elsewhere answers [Snapshot.RefusedElsewhere].
func (rs *refusals) elsewhere(s *Snapshot, p *presented) Refusal {
	host := p.name
	if len(p.valid) == 0 {
		return Refusal{Answer: Unknown}
	}
	if !s.refusable(host) {
		return Refusal{Answer: No}
	}
	for _, leaf := range p.valid {
		for _, by := range rs.presentersOf(s, leaf).names {
			if by.name != host && s.refused(by.name, host) {
				return Refusal{Yes, by.shown, host}
			}
		}
	}
	return Refusal{Answer: No}
}

// refusable tells whether something can refuse a host.
func (s *Snapshot) refusable(host string) (can bool) {
	if s.strictSNIHost {
		return true
	}
	s.guards.each(host, func(g *Guard, _ bool) bool {
		can = !g.ReportOnly
		return !can
	})
	return can
}

// presenters are the hosts for whose connections a certificate is presented: of
// each class of server names two, since one may be the host that is asked about.
type presenters struct {
	names []shownName
	until time.Time
}

// presentersOf returns those of a certificate. They change when another
// certificate for one of the names comes up, so they are found anew, but for no
// more than a hundredth of the time.
func (rs *refusals) presentersOf(s *Snapshot, leaf *x509.Certificate) *presenters {
	old := rs.presenters.get(leaf)
	if old != nil && time.Now().Before(old.until) {
		return old
	}
	if old == nil {
		rs.mu.Lock()
	} else if !rs.mu.TryLock() {
		return old // somebody is at it
	}
	defer rs.mu.Unlock()
	if now := rs.presenters.get(leaf); now != old {
		return now
	}
	began := time.Now()
	found := &presenters{names: rs.presentersNow(s, leaf)}
	took := time.Since(began)
	found.until = began.Add(took + max(freshFor, 100*took))
	rs.presenters.swap(leaf, old, found)
	return found
}

func (rs *refusals) presentersNow(s *Snapshot, leaf *x509.Certificate) (names []shownName) {
	presents := func(sni string) bool { return slices.Contains(s.certificates.present(sni).leaves, leaf) }
	cover := s.certificates.coverage(leaf)
	seen := make(map[sniClass]int)
	for _, name := range cover.spelled {
		if _, isName := cover.names[name]; !isName || s.routes.of(name) == nil {
			continue
		}
		if class := s.sniClass(name); seen[class] < 2 && presents(name) {
			seen[class]++
			names = append(names, shownName{name, name})
		}
	}
	for _, parent := range cover.under {
		if under := rs.under[parent]; under != nil {
			for _, group := range under.groups {
				found := 0
				for i := 0; i < len(group) && found < 2; i++ {
					if presents(group[i]) {
						found++
						names = append(names, shownName{group[i], group[i]})
					}
				}
			}
		}
		for _, name := range rs.unnamed(s, parent) {
			if presents(name.name) {
				names = append(names, name)
			}
		}
	}
	return names
}
