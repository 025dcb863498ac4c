package authority

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// all returns what a table finds for a name.
func all(find func(*cursor, string), name string) (indexes []int32) {
	var c cursor
	find(&c, name)
	for r, ok := c.next(); ok; r, ok = c.next() {
		indexes = append(indexes, r.index)
	}
	return indexes
}

func TestTable(t *testing.T) {
	var tab table
	for i, entry := range []struct {
		patterns []string // "" is any name
		certain  bool
		ends     bool
	}{
		0: {[]string{"a.test", "b.test"}, false, true},
		1: {[]string{"*.test", "a.test"}, true, true},
		2: {[]string{"a.*.test", "*.*.test"}, true, false},
		3: {[]string{""}, false, true},
		4: {[]string{"b.x.test"}, true, true},
		5: {[]string{""}, true, true},
		6: {[]string{"never.reached.as.five.ends"}, true, true},
	} {
		if got := tab.addEntry(entry.ends); int(got) != i {
			t.Fatalf("entry %d has index %d", i, got)
		}
		for _, pattern := range entry.patterns {
			if pattern == "" {
				tab.addAny(entry.certain)
			} else {
				tab.add(pattern, entry.certain)
			}
		}
	}
	for _, test := range []struct {
		name string
		want []int32
	}{
		{"a.test", []int32{0, 1}},
		{"b.test", []int32{0, 1}},
		{"c.test", []int32{1}},
		{"a.x.test", []int32{2, 3, 5}},
		{"b.x.test", []int32{2, 3, 4}},
		{"test", []int32{3, 5}},
		{"a.b.c.test", []int32{3, 5}},
		{"", []int32{3, 5}},
		{"x.test.", []int32{3, 5}}, // an empty label behind the dot
		{"a.x.", []int32{3, 5}},
		{"never.reached.as.five.ends", []int32{3, 5}},
	} {
		if got := all(tab.find, test.name); !slices.Equal(got, test.want) {
			t.Errorf("find(%q) = %v, want %v", test.name, got, test.want)
		}
	}
}

// More lists than a cursor holds by itself are not lost.
func TestTableManyShapes(t *testing.T) {
	var tab table
	const labels = 5
	var want []int32
	for bits := range 1 << labels {
		pattern := make([]string, labels)
		for i := range pattern {
			pattern[i] = "a"
			if bits&(1<<i) != 0 {
				pattern[i] = "*"
			}
		}
		want = append(want, tab.addEntry(false))
		tab.add(strings.Join(pattern, "."), true)
	}
	if got := all(tab.find, "a.a.a.a.a"); !slices.Equal(got, want) {
		t.Errorf("found %v, want all %d", got, len(want))
	}
}

// As MatchHost has it, "*" stands for an empty label too.
func TestTableEmptyLabels(t *testing.T) {
	var tab table
	tab.addEntry(false)
	tab.add("*", true)
	tab.addEntry(false)
	tab.add("*.*.*", true)
	for name, want := range map[string][]int32{"": {0}, "a": {0}, "x.y.": {1}, "x.y": nil} {
		if got := all(tab.find, name); !slices.Equal(got, want) {
			t.Errorf("find(%q) = %v, want %v", name, got, want)
		}
	}
	if got := all(tab.findExact, ""); got != nil {
		t.Errorf("findExact(%q) = %v, want none", "", got)
	}
}

func TestTableFindDoesNotAllocate(t *testing.T) {
	var tab table
	tab.addEntry(true)
	tab.add("a.test", true)
	tab.add("*.test", false)
	tab.addEntry(true)
	tab.addAny(true)
	for _, name := range []string{"a.test", "b.test", "c.b.test", ""} {
		if n := testing.AllocsPerRun(100, func() {
			var c cursor
			tab.find(&c, name)
			for ok := true; ok; {
				_, ok = c.next()
			}
		}); n != 0 {
			t.Errorf("find(%q): %v allocations", name, n)
		}
	}
}

// BenchmarkTable: the same ten hot names, and random ones, among 10 to 100 000.
func BenchmarkTable(b *testing.B) {
	for _, size := range []int{10, 1000, 100_000} {
		var tab table
		names := make([]string, size)
		for i := range size {
			names[i] = fmt.Sprintf("host-%d.example.com", i)
			tab.addEntry(true)
			tab.add(names[i], true)
		}
		tab.addEntry(true)
		tab.add("*.example.com", true)
		tab.addEntry(true)
		tab.addAny(true)
		run := func(b *testing.B, names []string) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var c cursor
				tab.find(&c, names[i%len(names)])
				c.next()
			}
		}
		b.Run(fmt.Sprintf("hot/%d", size), func(b *testing.B) { run(b, names[:10]) })
		rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		b.Run(fmt.Sprintf("random/%d", size), func(b *testing.B) { run(b, names) })
	}
}
