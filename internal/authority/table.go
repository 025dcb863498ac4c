package authority

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// A table answers which entries of an ordered list can match a host name:
// routes by their host matchers, connection policies by their SNI list, guards
// by where they stand. A lookup is O(labels), whatever the number of entries.
//
// A pattern is a name in which a label may be "*", standing for exactly one
// label, at any place. That is how Caddy's MatchHost reads it.
type table struct {
	exact map[string][]ref
	wild  []shape
	any   []ref
	// ends tells of each entry whether the search is over once it matches.
	ends []bool
	// most is the most labels that a pattern has.
	most int
}

// A shape holds the patterns that have equally many labels and wildcards in
// the same places: one map lookup finds all that match a name.
type shape struct {
	labels   int
	wildcard []bool // by label, from the left
	patterns map[string][]ref
}

// A ref says that an entry can match; certain: it does, whatever else the
// request looks like.
type ref struct {
	index   int32
	certain bool
}

// addEntry adds an entry behind all others and returns its index.
func (t *table) addEntry(ends bool) int32 {
	t.ends = append(t.ends, ends)
	return int32(len(t.ends) - 1)
}

// add lets the newest entry match pattern, which is in lower case.
func (t *table) add(pattern string, certain bool) {
	if t.exact == nil {
		t.exact = make(map[string][]ref)
	}
	t.most = max(t.most, strings.Count(pattern, ".")+1)
	if !strings.Contains(pattern, "*") {
		t.exact[pattern] = t.extend(t.exact[pattern], certain)
		return
	}
	labels := strings.Split(pattern, ".")
	wildcard := make([]bool, len(labels))
	for i, label := range labels {
		wildcard[i] = label == "*"
	}
	at := slices.IndexFunc(t.wild, func(s shape) bool { return slices.Equal(s.wildcard, wildcard) })
	if at < 0 {
		at = len(t.wild)
		t.wild = append(t.wild, shape{len(labels), wildcard, make(map[string][]ref)})
	}
	patterns := t.wild[at].patterns
	patterns[pattern] = t.extend(patterns[pattern], certain)
}

// addAny lets the newest entry match every name, the empty one included.
func (t *table) addAny(certain bool) {
	t.any = t.extend(t.any, certain)
}

func (t *table) extend(refs []ref, certain bool) []ref {
	newest := int32(len(t.ends) - 1)
	if n := len(refs); n > 0 && refs[n-1].index == newest {
		refs[n-1].certain = refs[n-1].certain || certain
		return refs
	}
	return append(refs, ref{newest, certain})
}

// find puts c, a new cursor, in front of the entries that can match name, in lower
// case. As MatchHost has it, "" is one label, an empty one, and a trailing dot makes
// one more.
func (t *table) find(c *cursor, name string) {
	t.findExact(c, name)
	if len(t.wild) > 0 {
		t.findWild(c, name)
	}
}

// first returns the first entry that can match name.
func (t *table) first(name string) (ref, bool) {
	var c cursor
	t.find(&c, name)
	return c.next()
}

// findExact is find without wildcards.
func (t *table) findExact(c *cursor, name string) {
	c.ends = t.ends
	c.push(t.exact[name])
	c.push(t.any)
}

// findWild is find with wildcards alone.
func (t *table) findWild(c *cursor, name string) {
	labels := strings.Count(name, ".") + 1
	var buf [256]byte
	for _, s := range t.wild {
		if s.labels == labels {
			c.push(s.patterns[string(s.mask(buf[:0], name))])
		}
	}
}

// mask appends name to buf, with a "*" for each label that is a wildcard in s.
func (s *shape) mask(buf []byte, name string) []byte {
	for i := range s.wildcard {
		label, rest, _ := strings.Cut(name, ".")
		name = rest
		if i > 0 {
			buf = append(buf, '.')
		}
		if s.wildcard[i] {
			buf = append(buf, '*')
		} else {
			buf = append(buf, label...)
		}
	}
	return buf
}

// labels returns the most labels that a pattern has.
func (t *table) labels() int { return t.most }

// share lets equal lists of refs be the same one, once the table is complete.
// It is what makes names with equal lists have one class.
func (t *table) share() {
	seen := make(map[string][]ref)
	shared := func(refs []ref) []ref {
		key := appendRefs(nil, refs)
		if first, ok := seen[string(key)]; ok {
			return first
		}
		seen[string(key)] = refs
		return refs
	}
	for pattern, refs := range t.exact {
		t.exact[pattern] = shared(refs)
	}
	for _, s := range t.wild {
		for pattern, refs := range s.patterns {
			s.patterns[pattern] = shared(refs)
		}
	}
}

// appendRefs adds refs to b, so that equal lists give equal bytes.
func appendRefs(b []byte, refs []ref) []byte {
	for _, r := range refs {
		b = strconv.AppendBool(binary.BigEndian.AppendUint32(b, uint32(r.index)), r.certain)
	}
	return b
}

// A class stands for what a table finds for a name: names of one class find the
// same entries. It holds the lists that were found, as where they begin.
type class [4]*ref

// class returns the class of what a cursor is about to find. It returns false
// if there are more lists than a class holds.
func (c *cursor) class() (found class, ok bool) {
	if c.n > len(found) {
		return class{}, false
	}
	for i, refs := range c.lists[:c.n] {
		found[i] = &refs[0]
	}
	return found, true
}

// A cursor walks through the entries found, in their order, up to the first
// that certainly matches and ends the search. It is large for a stack, and so it is
// never copied.
type cursor struct {
	ends []bool
	// Only lists that have entries are kept. More than eight need as many
	// wildcard shapes that all match one name: those spill into more.
	lists [8][]ref
	n     int
	more  [][]ref
	done  bool
}

func (c *cursor) push(refs []ref) {
	switch {
	case len(refs) == 0:
	case c.n < len(c.lists):
		c.lists[c.n] = refs
		c.n++
	default:
		c.more = append(c.more, refs)
	}
}

// next returns the next entry, and false when there is none.
func (c *cursor) next() (ref, bool) {
	if c.done {
		return ref{}, false
	}
	first, found := ref{}, false
	merge := func(refs []ref) {
		switch {
		case len(refs) == 0:
		case !found || refs[0].index < first.index:
			first, found = refs[0], true
		case refs[0].index == first.index:
			first.certain = first.certain || refs[0].certain
		}
	}
	for _, refs := range c.lists[:c.n] {
		merge(refs)
	}
	for _, refs := range c.more {
		merge(refs)
	}
	if !found {
		c.done = true
		return ref{}, false
	}
	skip := func(refs *[]ref) {
		if len(*refs) > 0 && (*refs)[0].index == first.index {
			*refs = (*refs)[1:]
		}
	}
	for i := range c.lists[:c.n] {
		skip(&c.lists[i])
	}
	for i := range c.more {
		skip(&c.more[i])
	}
	c.done = first.certain && c.ends[first.index]
	return first, true
}
