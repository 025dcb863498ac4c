// Command bench measures what this project claims, side by side with its peers.
//
//	go -C bench run . [-quick] [-write] [<benchmark>...]
//
// Without names it runs all benchmarks, also those after one that could not run. It
// names the claims that do not hold, and fails then. With -write, and Go of the version
// that go.mod names as toolchain, it puts the results into docs/results, and writes
// docs/results.md and what README.md says of results anew from all that are there; it must
// run in this folder then, as above. With -quick it measures less, and lets benchmarks
// that mostly wait run at the same time.
//
// The folder is a module of its own, so that plots are no part of the module that is
// measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/boundary"
	"github.com/caddy-connreuse/connreuse/bench/internal/browsers"
	"github.com/caddy-connreuse/connreuse/bench/internal/coalescing"
	"github.com/caddy-connreuse/connreuse/bench/internal/coldstart"
	"github.com/caddy-connreuse/connreuse/bench/internal/gate"
	"github.com/caddy-connreuse/connreuse/bench/internal/growth"
	"github.com/caddy-connreuse/connreuse/bench/internal/identity"
	"github.com/caddy-connreuse/connreuse/bench/internal/learning"
	"github.com/caddy-connreuse/connreuse/bench/internal/origin"
	"github.com/caddy-connreuse/connreuse/bench/internal/peers"
	"github.com/caddy-connreuse/connreuse/bench/internal/person"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sick"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/bench/internal/speed"
	"github.com/caddy-connreuse/connreuse/bench/internal/throughput"
)

// benchmarks, in the order of docs/results.md.
var benchmarks = []report.Benchmark{
	{Name: "gate", Run: gate.Run},
	{Name: "origin", Run: origin.Run},
	{Name: "identity", Run: identity.Run},
	{Name: "browsers", Run: browsers.Run},
	{Name: "coalescing", Run: coalescing.Run},
	{Name: "throughput", Run: throughput.Run},
	{Name: "speed", Run: speed.Run},
	{Name: "growth", Run: growth.Run},
	{Name: "boundary", Run: boundary.Run},
	{Name: "learning", Run: learning.Run},
	{Name: "coldstart", Run: coldstart.Run, Waits: true},
	{Name: "peers", Run: peers.Run},
	{Name: "sick", Run: sick.Run, Waits: true},
	{Name: "person", Run: person.Run},
}

// headlines are the claims in the README's table.
var headlines = []string{
	"boundary/nginx", "boundary/control", "identity/h1-8", "browsers/421s-with-origin", "throughput/h2-512",
}

// book is where results are kept.
var book = report.Book{Root: "..", Names: names(), Headlines: headlines}

func main() {
	if sidebyside.RunsAsCaddy() {
		return
	}
	quick := flag.Bool("quick", false, "measure a sample only")
	write := flag.Bool("write", false, "write docs/results, docs/results.md and the table in README.md")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: go -C bench run . [-quick] [-write] [%s]\n", strings.Join(names(), "] ["))
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *quick, *write, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func names() (names []string) {
	for _, b := range benchmarks {
		names = append(names, b.Name)
	}
	return names
}

func run(ctx context.Context, quick, write bool, chosen []string) error {
	for _, name := range chosen {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("there is no benchmark %q, only %s", name, strings.Join(names(), ", "))
		}
	}
	if err := builtAsReleases(write, quick); err != nil {
		return err
	}
	var selected []report.Benchmark
	for _, b := range benchmarks {
		if len(chosen) == 0 || slices.Contains(chosen, b.Name) {
			selected = append(selected, b)
		}
	}
	return measureAll(ctx, selected, quick, func(r *report.Result) error {
		r.Markdown(os.Stdout, "results")
		if write {
			return book.Write(r)
		}
		return nil
	})
}

// measureAll runs benchmarks one after the other, and calls done with each result. In a
// quick run those that mostly wait come last, and at the same time. The error names all
// claims that do not hold, and all benchmarks that could not run.
func measureAll(ctx context.Context, selected []report.Benchmark, quick bool, done func(*report.Result) error) error {
	var mu sync.Mutex
	var failed []error
	one := func(b report.Benchmark) {
		result, err := measure(ctx, b, quick)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", b.Name, err))
			return
		}
		for _, c := range result.Broken() {
			failed = append(failed, fmt.Errorf("%s does not hold: %s: %s, not %s", c.Name, c.Text, c.Value, c.Limit))
		}
		if err := done(result); err != nil {
			failed = append(failed, err)
		}
	}
	var waiting sync.WaitGroup
	for _, last := range []bool{false, true} {
		for _, b := range selected {
			switch {
			case ctx.Err() != nil || last != (quick && b.Waits):
			case last:
				waiting.Go(func() { one(b) })
			default:
				one(b)
			}
		}
	}
	waiting.Wait()
	return errors.Join(append(failed, ctx.Err())...)
}

// measure runs one benchmark.
func measure(ctx context.Context, b report.Benchmark, quick bool) (*report.Result, error) {
	started := time.Now()
	result, err := b.Run(ctx, report.Options{Quick: quick, Progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	result.Name, result.Quick = b.Name, quick
	result.Started, result.Seconds = started, time.Since(started).Seconds()
	result.Versions = append([]string{sidebyside.Versions()}, result.Versions...)
	return result, nil
}

// builtAsReleases refuses to write full results that another Go gave than the one that
// Caddy's releases are built with, which go.mod names.
func builtAsReleases(write, quick bool) error {
	if !write || quick {
		return nil
	}
	text, err := os.ReadFile("go.mod")
	if err != nil {
		return fmt.Errorf("results are written in the folder of the benchmarks: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), "\ntoolchain ")
	want, _, _ := strings.Cut(rest, "\n")
	if got := runtime.Version(); got != want {
		return fmt.Errorf("results are written with %s, not %s: GOTOOLCHAIN=%s go -C bench run . -write", want, got, want)
	}
	return nil
}
