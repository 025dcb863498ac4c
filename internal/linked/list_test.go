package linked

import (
	"slices"
	"testing"
)

type item struct {
	name string
	node Node[item]
}

// names are those of the elements in order, as it is told from both ends.
func names(t *testing.T, l *List[item]) (all []string) {
	t.Helper()
	for e := range l.All() {
		all = append(all, e.name)
	}
	var back []string
	for e := l.Last(); e != nil; e = e.node.Prev() {
		back = append(back, e.name)
	}
	slices.Reverse(back)
	if !slices.Equal(all, back) || len(all) != l.Len() {
		t.Errorf("%q from the beginning, %q from the end, and %d in all", all, back, l.Len())
	}
	return all
}

// What is looked for is found where it is first.
func TestFind(t *testing.T) {
	var l List[item]
	for _, name := range []string{"a", "b", "b", "c"} {
		e := &item{name: name}
		l.Push(&e.node, e)
	}
	for _, name := range []string{"a", "b", "c"} {
		found := l.Find(func(e *item) bool { return e.name == name })
		if found == nil || found.name != name || found.node.Prev() != nil && found.node.Prev().name == name {
			t.Errorf("%s: found %+v", name, found)
		}
	}
	if found := l.Find(func(*item) bool { return false }); found != nil {
		t.Errorf("found %+v, though none is so", found)
	}
}

// A list keeps its order, whatever enters, leaves or is touched.
func TestOrder(t *testing.T) {
	a, b, c := &item{name: "a"}, &item{name: "b"}, &item{name: "c"}
	for _, test := range []struct {
		name string
		do   func(l *List[item])
		want []string
	}{
		{"as they entered", func(*List[item]) {}, []string{"a", "b", "c"}},
		{"the first leaves", func(l *List[item]) { l.Remove(&a.node) }, []string{"b", "c"}},
		{"one in between leaves", func(l *List[item]) { l.Remove(&b.node) }, []string{"a", "c"}},
		{"the last leaves", func(l *List[item]) { l.Remove(&c.node) }, []string{"a", "b"}},
		{"one leaves twice", func(l *List[item]) { l.Remove(&b.node); l.Remove(&b.node) }, []string{"a", "c"}},
		{"the first is touched", func(l *List[item]) { l.Touch(&a.node) }, []string{"b", "c", "a"}},
		{"the last is touched", func(l *List[item]) { l.Touch(&c.node) }, []string{"a", "b", "c"}},
		{"who has left is touched", func(l *List[item]) { l.Remove(&a.node); l.Touch(&a.node) }, []string{"b", "c"}},
		{"one comes back, in front", func(l *List[item]) { l.Remove(&c.node); l.PushFront(&c.node, c) }, []string{"c", "a", "b"}},
		{"all leave as they are looked at", func(l *List[item]) {
			for e := range l.All() {
				l.Remove(&e.node)
			}
		}, nil},
		{"one enters an empty list, in front", func(l *List[item]) {
			for _, e := range []*item{a, b, c} {
				l.Remove(&e.node)
			}
			l.PushFront(&b.node, b)
		}, []string{"b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l List[item]
			for _, e := range []*item{a, b, c} {
				e.node = Node[item]{}
				l.Push(&e.node, e)
			}
			test.do(&l)
			if got := names(t, &l); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
			for _, e := range []*item{a, b, c} {
				if in := slices.Contains(test.want, e.name); e.node.Listed() != in || e.node.In(&l) != in {
					t.Errorf("%s is in the list: %v, want %v", e.name, e.node.In(&l), in)
				}
			}
		})
	}
}

// A node is in one list, and leaves no other one.
func TestTwoLists(t *testing.T) {
	var l, other List[item]
	e := &item{name: "e"}
	l.Push(&e.node, e)
	if other.Remove(&e.node) || e.node.In(&other) || e.node.In(nil) {
		t.Error("it was in a list that it never entered")
	}
	if !l.Remove(&e.node) || e.node.In(nil) || l.First() != nil || l.Last() != nil {
		t.Error("it did not leave its own")
	}
}

// The list of all idle connections has room for so many.
func TestBounded(t *testing.T) {
	for _, test := range []struct {
		most   int
		stays  int
		driven []string
	}{
		{0, 3, nil},
		{3, 3, nil},
		{2, 2, []string{"a"}},
		{1, 1, []string{"a", "b"}},
	} {
		b := NewBounded[item](test.most)
		var driven []string
		var last *item
		for _, name := range []string{"a", "b", "c"} {
			last = &item{name: name}
			if victim := b.Push(&last.node, last); victim != nil {
				driven = append(driven, victim.name)
				if b.Has(&victim.node) {
					t.Errorf("at most %d: %s is still there", test.most, victim.name)
				}
			}
		}
		if !slices.Equal(driven, test.driven) || b.Len() != test.stays || !b.Has(&last.node) {
			t.Errorf("at most %d: %q were driven out, %d stay", test.most, driven, b.Len())
		}
		b.Remove(&last.node)
		b.Remove(&last.node)
		if b.Len() != test.stays-1 || b.Has(&last.node) {
			t.Errorf("at most %d: the last one did not leave once", test.most)
		}
	}
}

// Neither entering nor leaving nor looking allocates.
func TestNoAllocations(t *testing.T) {
	var l List[item]
	e, f := &item{name: "e"}, &item{name: "f"}
	n := 0
	if allocs := testing.AllocsPerRun(100, func() {
		l.Push(&e.node, e)
		l.PushFront(&f.node, f)
		for v := range l.All() {
			n += len(v.name)
			l.Remove(&v.node)
		}
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
