package authority

import (
	"crypto/x509"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

// An Absence says why a name is not advertised. The list is closed.
type Absence uint8

// The absences, in the order in which they are looked for.
const (
	Advertised Absence = iota // it is
	NotServed
	NotCovered
	OtherPolicy
	Refused
	absenceCount
)

// String says it in words for an operator.
func (a Absence) String() string {
	return [absenceCount]string{
		Advertised:  "advertised",
		NotServed:   "no site of this server is there for it",
		NotCovered:  "the certificate presented for the server name does not cover it",
		OtherPolicy: "it has another TLS connection policy than the server name",
		Refused:     "a request for it would be answered 421 on this connection",
	}[a]
}

// absence is the one definition of what a client may be told; see
// [Snapshot.Advertised]. Covered: the certificate for the SNI covers the host.
func (s *Snapshot) absence(sni, host string, covered bool) Absence {
	switch {
	case s.routes.of(host) == nil:
		return NotServed
	case !covered:
		return NotCovered
	case !s.SamePolicy(sni, host):
		return OtherPolicy
	case !s.Accepted(sni, host):
		return Refused
	}
	return Advertised
}

// An OriginSet is the set of exact names a client may be told of on a connection
// with some SNI. It is not to be changed.
type OriginSet struct {
	// Names are those that are advertised, in the order of the list they were
	// taken from, else in alphabetical order. The SNI itself may be one.
	Names []string
	// Absent are those that are not, by reason; a few of each.
	Absent [absenceCount][]string

	key    string
	leaves []*x509.Certificate
	// alone is the SNI the set was made for, if it was left out since there
	// was no other to judge it by: on its own connection any host passes.
	alone string
}

// OriginSets finds the origin set of a connection. It is safe for concurrent use.
type OriginSets struct {
	server *Server
	list   []string // nil for automatic sets
	listed map[string]struct{}
	most   int

	// Sets are kept like certificates are: in places by hash, bounded and
	// without lock. Nothing in them grows old: a set is used only with the
	// certificates it was made from, and all else stays as long as the config.
	seed     maphash.Seed
	kept     [1024]atomic.Pointer[OriginSet]
	building sync.Mutex // so that a crowd of connections makes a set once
}

// NewOriginSets returns the origin sets of a server. Their names come from
// list, canonical names, or if that is nil from what the server's certificates
// and routes name. An automatic set has no more names than most.
func NewOriginSets(server *Server, list []string, most int) *OriginSets {
	os := &OriginSets{server: server, list: list, most: most, listed: make(map[string]struct{}), seed: maphash.MakeSeed()}
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
	var buf [512]byte
	key := os.appendKey(buf[:0], s, sni)
	hash := maphash.Bytes(os.seed, key)
	for _, leaf := range shown.leaves {
		hash = hash*31 + maphash.Comparable(os.seed, leaf)
	}
	slot := &os.kept[hash%uint64(len(os.kept))]
	look := func() (set *OriginSet, other string) {
		set = slot.Load()
		switch {
		case set == nil || set.key != string(key) || !slices.Equal(set.leaves, shown.leaves):
			return nil, ""
		case set.alone != "" && set.alone != sni:
			return nil, set.alone
		}
		return set, ""
	}
	if set, _ := look(); set != nil {
		return set
	}
	os.building.Lock()
	defer os.building.Unlock()
	set, other := look()
	if set == nil {
		set = os.build(s, sni, other, shown)
		set.key, set.leaves = string(key), shown.leaves
		slot.Store(set)
	}
	return set
}

// appendKey adds what the set depends on, certificates aside. Server names come
// to the same (clients can make up as many as they like under a wildcard
// certificate) if they have the same TLS policies, and the same site where its
// guards ask for that; see [Guard]. Names that are somewhere named together with
// others are on their own.
func (os *OriginSets) appendKey(b []byte, s *Snapshot, sni string) []byte {
	_, shared := s.hosts.shared[sni]
	_, listed := os.listed[sni]
	if shared || listed {
		return append(append(b, '='), sni...)
	}
	b = append(appendFound(b, &s.policies.bySNI, sni), '|')
	return s.hosts.appendSite(b, s.routes, sni)
}

// build makes the set anew. A name is judged by how a connection with that SNI
// would treat it; the SNI itself by one with the other, which comes to the same
// key and certificates.
func (os *OriginSets) build(s *Snapshot, sni, other string, shown *presented) *OriginSet {
	set := new(OriginSet)
	names := os.list
	if names == nil {
		names = s.candidates(sni, shown)
	}
	for _, name := range names {
		by := sni
		if name == sni && os.list == nil {
			if other == "" || !slices.Equal(s.certificates.present(other).leaves, shown.leaves) {
				set.alone = sni
				continue
			}
			by = other
		}
		if os.list == nil && len(set.Names) == os.most {
			continue
		}
		switch absent := s.absence(by, name, shown.cover(name)); {
		case absent == Advertised:
			set.Names = append(set.Names, name)
		case len(set.Absent[absent]) < mostNamed:
			set.Absent[absent] = append(set.Absent[absent], name)
		}
	}
	return set
}

// candidates returns, in order, the exact names that the certificates may be
// valid for: those in them, and those of the config under their wildcards, but
// for names that another site than the SNI's has to itself. Whichever of several
// certificates is presented must cover a name, so the names of the first will do.
func (s *Snapshot) candidates(sni string, shown *presented) (names []string) {
	if len(shown.covers) == 0 {
		return nil
	}
	c := shown.covers[0]
	for name := range c.names {
		names = append(names, name)
	}
	for addr := range c.addrs {
		names = append(names, addr)
	}
	for parent := range c.parents {
		names = append(names, s.hosts.under[parent]...)
	}
	if len(s.hosts.ofSite) > 0 && len(c.parents) > 0 {
		var buf [256]byte
		for _, name := range s.hosts.ofSite[string(appendFound(buf[:0], &s.routes.byHost, sni))] {
			if c.has(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
