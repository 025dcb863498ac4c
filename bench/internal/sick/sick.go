// Package sick measures what clients notice of upstreams that are not well, with
// several proxies in front that all get the same requests at the same time.
package sick

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// A trouble is what is wrong with upstreams, and what that may do to requests.
type trouble struct {
	name    string        // in names of claims
	text    string        // what the upstreams do, and the load
	secure  bool          // TLS to the upstreams, with HTTP/2 where the proxy speaks it
	retries bool          // lb_retries 2, with both transports
	maxIdle time.Duration // keepalive, with both transports; 0 is their default
	without []string
	fleet   func() (*fleet, error)
	load    load
	last    time.Duration
	quick   time.Duration // in a quick run; 0 is not at all
	// quiet: few requests a second, so that others run beside it.
	quiet  bool
	claims func(r *report.Result, by map[string]*figures)
	plot   bool
}

const text = `What clients notice of upstreams that are not well. All proxies get the same requests at the same time, from clients that
never repeat one and give up after %v: Caddy with ` + "`upstreampool`" + ` and with ` + "`transport http`" + `, HAProxy, and nginx where it can speak
the upstream's protocol. Each has upstreams of its own, and what is said here; all else is as it is by default. Of the others nothing is claimed.`

// Run goes through all troubles.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	result := &report.Result{Title: "Sick upstreams", Text: fmt.Sprintf(text, patience), Versions: programs.Versions("haproxy", "nginx")}
	chosen := troubles
	if o.Quick {
		chosen = slices.DeleteFunc(slices.Clone(troubles), func(c trouble) bool { return c.quick == 0 })
	}
	found := make([]map[string]*figures, len(chosen))
	errs := make([]error, len(chosen))
	var quiet sync.WaitGroup
	for i, c := range chosen {
		last := c.last
		if o.Quick {
			last = c.quick
		}
		run := func() {
			fmt.Fprintf(o.Progress, "sick: %s\n", c.name)
			found[i], errs[i] = c.run(ctx, last)
		}
		if c.quiet {
			quiet.Go(run)
		} else {
			quiet.Wait() // those before
			run()
		}
	}
	quiet.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, c := range chosen {
		c.report(result, found[i])
	}
	return result, nil
}

// run sends the load to all proxies.
func (c *trouble) run(ctx context.Context, last time.Duration) (map[string]*figures, error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	fleets := make(map[string]*fleet)
	for _, name := range names {
		if slices.Contains(c.without, name) {
			continue
		}
		f, err := c.fleet()
		if err != nil {
			return nil, err
		}
		defer f.stop()
		fleets[name] = f
	}
	p, err := c.start(dir, fleets)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	defer p.stop()

	found := make(map[string]*figures)
	for name := range fleets {
		found[name] = new(figures)
	}
	loaded, end := context.WithCancel(ctx)
	var loads, beside sync.WaitGroup
	failed := make(chan error, len(fleets))
	for name, f := range fleets {
		loads.Go(func() { found[name].add(c.load.run(ctx, p.addrs[name], last, 1)) })
		if f.during != nil {
			beside.Go(func() { failed <- f.during(loaded) })
		}
	}
	loads.Wait()
	end()
	beside.Wait()
	if err := p.caddy.Ended(); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	close(failed)
	for err := range failed {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for name, f := range fleets {
		found[name].opened, found[name].faults = f.opened(), int(f.faults.Load())
	}
	return found, ctx.Err()
}

// report adds a table, the claims and the plot of one trouble.
func (c *trouble) report(result *report.Result, by map[string]*figures) {
	table := report.Table{
		Title:   c.text + ":",
		Columns: []string{"proxy", "requests", "failed", "p50, ms", "p99", "p99.9", "longest", "connections per request"},
	}
	plot := report.Plot{
		Name: "sick-" + c.name, Title: c.name + ": how long requests take", LogX: true, LogY: true,
		X: "requests that take longer, of 1000", Y: "ms",
	}
	for _, name := range names {
		f := by[name]
		if f == nil {
			continue
		}
		row := []string{name, fmt.Sprint(len(f.sent)), fmt.Sprint(f.failed)}
		for _, share := range []float64{0.5, 0.99, 0.999, 1} {
			row = append(row, fmt.Sprintf("%.1f", milliseconds(f.quantile(share))))
		}
		table.Rows = append(table.Rows, append(row, fmt.Sprintf("%.3f", f.each())))
		series := report.Series{Name: name}
		for _, share := range []float64{0, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999} {
			if longer := 1 - share; longer*float64(len(f.sent)) >= 1 {
				series.Points = append(series.Points, [2]float64{1000 * longer, milliseconds(f.quantile(share))})
			}
		}
		plot.Series = append(plot.Series, series)
	}
	result.Tables = append(result.Tables, table)
	if c.plot {
		result.Plots = append(result.Plots, plot)
	}
	c.claims(result, by)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
