package authority

import (
	"crypto/x509"
	"slices"
	"strings"
	"sync"
)

// A Naming is a rule by which origin sets name hosts.
type Naming uint8

const (
	// BySpelling names the hosts that a host matcher of the server names exactly and
	// openly, and that every certificate presented spells out: a stranger learns
	// nothing that the handshake does not tell.
	BySpelling Naming = iota
	// BySites is BySpelling, and names those under a certificate's wildcard as well.
	BySites
	// Listed names the hosts of a list, whatever route is there for them.
	Listed
)

// An Absence says why a name is not advertised. The list is closed.
type Absence uint8

// The absences, in the order in which they are looked for.
const (
	Advertised Absence = iota // it is
	NotListed
	NotServed
	NotNamed
	NotOpen
	NotCovered
	OtherPolicy
	Refused
	// Withheld is the last one: but for it, the name would be advertised.
	Withheld
	absenceCount
)

// String says it in words for an operator.
func (a Absence) String() string {
	return [absenceCount]string{
		Advertised:  "advertised",
		NotListed:   "it is not among the configured origins",
		NotServed:   "no site of this server is there for it",
		NotNamed:    "no host matcher of this server names it exactly; another machine may serve it",
		NotOpen:     "host matchers name it only inside 'not', or beside matchers such as remote_ip",
		NotCovered:  "the certificate presented for the server name does not cover it",
		OtherPolicy: "it has another TLS connection policy than the server name",
		Refused:     "a request for it would be answered 421 on this connection",
		Withheld:    "the certificate covers it by a wildcard only, and so does not tell of it; 'origins sites' does",
	}[a]
}

// absence is the one definition of what a client may be told; see
// [Snapshot.Advertised]. Shown is what is presented for the SNI.
func (s *Snapshot) absence(by Naming, sni, host string, shown *presented) Absence {
	switch {
	case s.routes.of(host) == nil:
		return NotServed
	case by != Listed && !s.hosts.names(host):
		return NotNamed
	case by != Listed && !s.hosts.isOpen(host):
		return NotOpen
	case !shown.cover(host):
		return NotCovered
	case !s.SamePolicy(sni, host):
		return OtherPolicy
	}
	// The rest of what [Snapshot.Accepted] asks was asked above.
	if _, accepted := s.judged(sni, host); !accepted {
		return Refused
	}
	if by == BySpelling && !shown.spell(host) {
		return Withheld
	}
	return Advertised
}

// spell tells whether every certificate has host itself among its names.
func (p *presented) spell(host string) bool {
	return len(p.covers) > 0 && !slices.ContainsFunc(p.covers, func(c *coverage) bool { return !c.lists(host) })
}

// An OriginSet is the set of exact names a client may be told of on a connection
// with some SNI. It is not to be changed.
type OriginSet struct {
	// Names are those that are advertised, in the order of the list they were
	// taken from, else in alphabetical order. The SNI itself may be one.
	Names []string
	// Absent are those that are not, by reason; a few of each.
	Absent [absenceCount][]string

	// unnamed are hosts of this server that a certificate covers and the set does
	// not name, refused or not: two at most, since one may be the connection's own.
	unnamed []string

	leaves []*x509.Certificate
	// alone is the SNI that the set was made for, if that is left out of Names
	// although it could be one of them. A guard lets a host pass on its own
	// connection in any case, so another SNI of the class has to judge it.
	// Example: the first connection has the SNI a.w. Whether a.w is advertised to
	// b.w is not known before somebody connects with b.w, and the set is made anew
	// then.
	alone string
	until expiry
}

// An originKey is what an origin set depends on. The certificates are in it as a
// hash: the set has them.
type originKey struct {
	class  sniClass
	leaves uint64
}

// Known tells whether it is known which certificates can be presented.
func (set *OriginSet) Known() bool { return len(set.leaves) > 0 }

// NamesAll tells whether a client with that SNI is told of every host of this server
// that the certificate covers.
func (set *OriginSet) NamesAll(sni string) bool {
	return !slices.ContainsFunc(set.unnamed, func(name string) bool { return name != sni })
}

// OriginSets finds the origin set of a connection. It is safe for concurrent use.
type OriginSets struct {
	server *Server
	naming Naming
	list   []string // if Listed
	listed map[string]struct{}
	most   int

	// kept has room for all classes that the config has. A set is used only with
	// the certificates it was made from; see [Snapshot.lasts] for the rest.
	kept     func() *cache[originKey, OriginSet]
	building sync.Mutex // so that a crowd of connections makes a set once
}

// NewOriginSets returns the origin sets of a server. Their names come from list,
// canonical names, if they are Listed, else from what the server's certificates and
// routes name; then a set has no more names than most.
func NewOriginSets(server *Server, naming Naming, list []string, most int) *OriginSets {
	os := &OriginSets{server: server, naming: naming, list: list, most: most, listed: make(map[string]struct{})}
	os.kept = sync.OnceValue(func() *cache[originKey, OriginSet] {
		return newCache[originKey, OriginSet](server.Snapshot().mostClasses() + len(list))
	})
	server.sets = os
	for _, name := range list {
		os.listed[name] = struct{}{}
	}
	return os
}

// Find returns the set for a new connection with that SNI, canonical or "".
//
// It looks at the certificates as they are now, and lets the guards of the
// server know of them: what is advertised from here on must not be refused by
// one that remembers the certificate before.
func (os *OriginSets) Find(sni string) *OriginSet {
	s := os.server.Snapshot()
	shown := new(presented)
	if sni != "" {
		shown = s.certificates.refresh(sni)
	}
	key := originKey{os.class(s, sni), s.certificates.hash(shown.leaves)}
	if set := os.kept().get(key); set.is(sni, shown) {
		return set
	}
	os.building.Lock()
	defer os.building.Unlock()
	old := os.kept().get(key)
	if old.is(sni, shown) {
		return old
	}
	other := ""
	if old.holds(shown) {
		other = old.alone
	}
	set := os.build(s, strings.Clone(sni), other, shown)
	set.leaves, set.until = shown.leaves, s.lasts()
	os.kept().swap(key, old, set)
	return set
}

// is tells whether a set of the SNI's class is the set for the SNI.
func (set *OriginSet) is(sni string, shown *presented) bool {
	return set.holds(shown) && (set.alone == "" || set.alone == sni)
}

// holds tells whether a set was made from these certificates, and is not over.
func (set *OriginSet) holds(shown *presented) bool {
	return set != nil && slices.Equal(set.leaves, shown.leaves) && !set.until.over()
}

// class returns the class of an SNI. Names of the list are on their own.
func (os *OriginSets) class(s *Snapshot, sni string) sniClass {
	if _, listed := os.listed[sni]; listed {
		return sniClass{name: sni}
	}
	return s.sniClass(sni)
}

// build makes the set anew. A name is judged by how a connection with that SNI
// would treat it; the SNI itself by one with the other, which comes to the same
// key and certificates.
func (os *OriginSets) build(s *Snapshot, sni, other string, shown *presented) *OriginSet {
	set := new(OriginSet)
	for _, name := range os.candidates(s, sni, shown) {
		by := sni
		if name == sni && os.naming != Listed {
			if other == "" || !slices.Equal(s.certificates.present(other).leaves, shown.leaves) {
				set.alone = sni
				continue
			}
			by = other
		}
		if os.naming != Listed && len(set.Names) == os.most {
			continue
		}
		switch absent := s.absence(os.naming, by, name, shown); {
		case absent == Advertised:
			set.Names = append(set.Names, name)
		case len(set.Absent[absent]) < mostNamed:
			set.Absent[absent] = append(set.Absent[absent], name)
		}
	}
	if os.naming == BySpelling {
		set.unnamed = s.unnamed(sni, shown, set.Names)
	}
	return set
}

// candidates returns the names that a set may have, in order.
func (os *OriginSets) candidates(s *Snapshot, sni string, shown *presented) []string {
	switch os.naming {
	case Listed:
		return os.list
	case BySites:
		return s.covered(sni, shown)
	}
	if len(shown.covers) == 0 {
		return nil
	}
	names := slices.Clone(shown.covers[0].spelled)
	slices.Sort(names)
	return names
}

// covered returns, in order, the exact names that the certificates may be valid
// for: those in them, and those of the config under their wildcards, but for names
// that another site than the SNI's has to itself. Whichever of several certificates
// is presented must cover a name, so the names of the first will do.
func (s *Snapshot) covered(sni string, shown *presented) (names []string) {
	if len(shown.covers) == 0 {
		return nil
	}
	c := shown.covers[0]
	names = slices.Clone(c.spelled)
	for parent := range c.parents {
		names = append(names, s.hosts.under[parent]...)
	}
	if len(c.parents) > 0 {
		names = append(names, s.ofOwnSite(sni, c)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ofOwnSite returns the names that the SNI's site has to itself and that a
// certificate covers.
func (s *Snapshot) ofOwnSite(sni string, c *coverage) (names []string) {
	if len(s.hosts.ofSite) == 0 {
		return nil
	}
	var buf [256]byte
	for _, name := range s.hosts.ofSite[string(appendFound(buf[:0], &s.routes.byHost, sni))] {
		if c.has(name) {
			names = append(names, name)
		}
	}
	return names
}

// unnamed returns hosts of this server that some certificate covers and that are not
// among names, at most two. A host that no host matcher names, but a wildcard in one
// or a catch-all lets in, stands for all of its kind. Those that a guard lets through
// on their own connection alone may be missing.
func (s *Snapshot) unnamed(sni string, shown *presented, names []string) (found []string) {
	add := func(list ...string) {
		for _, name := range list {
			if len(found) < 2 && s.routes.of(name) != nil && !slices.Contains(found, name) && !slices.Contains(names, name) {
				found = append(found, name)
			}
		}
	}
	for _, c := range shown.covers {
		add(c.spelled...)
		for parent := range c.parents {
			for _, name := range s.refusals.unnamed(s, parent) {
				add(name.name)
			}
			add(s.hosts.under[parent]...)
		}
		add(s.ofOwnSite(sni, c)...)
	}
	return found
}

// Refuses tells whether something that the certificate presented for an SNI covers is
// refused on a connection with it; see [Snapshot.Refuses].
func (os *OriginSets) Refuses(sni string) bool {
	return os.server.Snapshot().Refuses(sni).Answer == Yes
}

// Withheld returns how many names the set for an SNI would have more if it named
// those under a certificate's wildcard.
func (os *OriginSets) Withheld(sni string) (n int) {
	s := os.server.Snapshot()
	shown := s.presented(sni)
	for _, name := range s.covered(sni, shown) {
		if name != sni && s.absence(BySpelling, sni, name, shown) == Withheld {
			n++
		}
	}
	return n
}
