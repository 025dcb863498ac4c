package main

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

var update = flag.Bool("update", false, "write docs/results.md and the table in README.md from the results that there are")

func TestMain(m *testing.M) { needs.Main(m) }

// What docs/results.md and README.md say of results is what was measured: also a claim
// that does not hold, and a headline that nobody measured.
func TestPagesComeFromResults(t *testing.T) {
	pages, err := book.Pages()
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range pages {
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s does not come from docs/results: run go -C bench test -run %s . -update (%v)", file, t.Name(), err)
		}
	}
}

// A headline is a claim of a section.
func TestHeadlinesHaveSections(t *testing.T) {
	for _, name := range headlines {
		if section, _, _ := strings.Cut(name, "/"); !slices.Contains(names(), section) {
			t.Errorf("no section measures %q", name)
		}
	}
}
