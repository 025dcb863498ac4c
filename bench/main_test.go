package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
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

// All benchmarks run, also after one that could not, and whatever does not hold is named.
// In a quick run those that wait come last, and at the same time.
func TestMeasureAll(t *testing.T) {
	for _, quick := range []bool{true, false} {
		var order []string
		together := make(chan struct{}, 2)
		benchmark := func(name string, waits bool, value float64, err error) report.Benchmark {
			return report.Benchmark{Name: name, Waits: waits, Run: func(context.Context, report.Options) (*report.Result, error) {
				if quick && waits {
					together <- struct{}{}
					for len(together) < cap(together) {
						time.Sleep(time.Millisecond) // until the other one runs as well
					}
				} else {
					order = append(order, name)
				}
				var r report.Result
				r.AtLeast(name+"/claim", "a claim", value, 1)
				return &r, err
			}}
		}
		var measured []string
		err := measureAll(t.Context(), []report.Benchmark{
			benchmark("first", true, 1, nil), benchmark("second", false, 0, nil), benchmark("third", true, 0, nil),
			benchmark("fourth", false, 1, errors.New("cannot run")), benchmark("fifth", false, 1, nil),
		}, quick, func(r *report.Result) error {
			measured = append(measured, r.Name)
			return nil
		})
		want := []string{"first", "second", "third", "fourth", "fifth"}
		if quick {
			want = []string{"second", "fourth", "fifth"}
		}
		if !slices.Equal(order, want) {
			t.Errorf("quick %v: the order is %v, want %v", quick, order, want)
		}
		if slices.Sort(measured); !slices.Equal(measured, []string{"fifth", "first", "second", "third"}) {
			t.Errorf("quick %v: results of %v", quick, measured)
		}
		lines := strings.Split(fmt.Sprint(err), "\n")
		if slices.Sort(lines); !slices.Equal(lines, []string{
			"fourth: cannot run", "second/claim does not hold: a claim: 0, not at least 1", "third/claim does not hold: a claim: 0, not at least 1",
		}) {
			t.Errorf("quick %v: %v", quick, err)
		}
	}
}

// Who interrupts benchmarks is not told that all went well.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := measureAll(ctx, benchmarks, false, func(*report.Result) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// Who reads the name of a claim knows which benchmark measures it anew.
func TestClaimsAreNamedForSections(t *testing.T) {
	results, err := book.Results()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, r := range results {
		for _, c := range r.Claims {
			if !strings.HasPrefix(c.Name, r.Name+"/") || seen[c.Name] {
				t.Errorf("%s is no name of its own below %s/", c.Name, r.Name)
			}
			seen[c.Name] = true
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
