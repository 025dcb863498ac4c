package authority

import (
	"crypto/x509"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strconv"
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
// [Snapshot.Advertised].
func (s *Snapshot) absence(sni, host string) Absence {
	switch {
	case s.routes.of(host) == nil:
		return NotServed
	case !s.CertificateCovers(sni, host):
		return NotCovered
	case !s.SamePolicy(sni, host):
		return OtherPolicy
	case !s.Accepted(sni, host):
		return Refused
	}
	return Advertised
}

// An OriginSet is the set of exact names a client may be told of on a
// connection with some SNI. It is not to be changed.
type OriginSet struct {
	// Names are those that are advertised, in the order of the list they were
	// taken from, else in alphabetical order; then without the SNI itself.
	Names []string
	// Absent are those that are not, by reason; a few of each.
	Absent [absenceCount][]string

	key    string
	leaves []*x509.Certificate
}

// OriginSets finds the origin set of a connection. It is safe for concurrent
// use.
type OriginSets struct {
	server *Server
	list   []string // nil for automatic sets
	listed map[string]struct{}
	most   int

	// Sets are kept like certificates are: in places by hash, bounded and
	// without lock. Nothing in them grows old: a set is used only with the
	// certificates it was made from, and all else stays as long as the config.
	seed maphash.Seed
	kept [1024]atomic.Pointer[OriginSet]
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
	var shown *presented
	if sni == "" {
		shown = new(presented)
	} else {
		shown = s.certificates.refresh(sni)
	}
	var buf [512]byte
	key := os.appendKey(buf[:0], s, sni, shown)
	slot := &os.kept[maphash.Bytes(os.seed, key)%uint64(len(os.kept))]
	if set := slot.Load(); set != nil && set.key == string(key) && slices.Equal(set.leaves, shown.leaves) {
		return set
	}
	set := os.build(s, sni, shown)
	set.key, set.leaves = string(key), shown.leaves
	slot.Store(set)
	return set
}

// appendKey adds what the set depends on, certificates aside. That is the SNI
// itself if it may be the very host that is asked for. All others (clients can
// make up as many as they like under a wildcard certificate) come to the same
// if they have the same routes and TLS policies, since nothing else of an SNI
// counts for [Guard.Accepts] or anything here.
func (os *OriginSets) appendKey(b []byte, s *Snapshot, sni string, shown *presented) []byte {
	_, known := s.hosts.named[sni]
	if !known {
		_, known = os.listed[sni]
	}
	if known || slices.ContainsFunc(shown.covers, func(c *coverage) bool { return c.lists(sni) }) {
		return append(append(b, '='), sni...)
	}
	for _, t := range [...]*table{&s.routes.byHost, &s.policies.bySNI} {
		c := t.find(sni)
		for r, ok := c.next(); ok; r, ok = c.next() {
			b = binary.BigEndian.AppendUint32(b, uint32(r.index))
			b = strconv.AppendBool(b, r.certain)
		}
		b = append(b, '|')
	}
	return b
}

// build makes the set anew.
func (os *OriginSets) build(s *Snapshot, sni string, shown *presented) *OriginSet {
	set := new(OriginSet)
	names := os.list
	if names == nil {
		names = s.candidates(shown)
	}
	for _, name := range names {
		if os.list == nil && (name == sni || len(set.Names) == os.most) {
			continue
		}
		switch absent := s.absence(sni, name); {
		case absent == Advertised:
			set.Names = append(set.Names, name)
		case len(set.Absent[absent]) < mostNamed:
			set.Absent[absent] = append(set.Absent[absent], name)
		}
	}
	return set
}

// candidates returns, in order, the exact names that the certificates may be
// valid for: those in them, and those of the config under their wildcards.
// Whichever of several certificates is presented must cover a name, so the names
// of the first will do.
func (s *Snapshot) candidates(shown *presented) (names []string) {
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
	slices.Sort(names)
	return slices.Compact(names)
}
