// Package boundary measures what happens to requests that are sent just when the
// upstream closes the connection, since it was idle for its keep-alive timeout.
package boundary

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

const text = `Requests are sent when the connection before them has been idle for as long as the upstream keeps one
open: from %[1]d ms before it closes to %[2]d ms after. They go from a client of HTTP/1.1 (or HTTP/3, where it says so) to
Caddy. From there they go through a proxy that delays everything by the same time each way, to a real server, which closes
idle connections after %[3]v. Caddy's ` + "`reverse_proxy`" + ` has ` + "`transport http`" + ` or ` + "`transport upstreampool`" + `, both without any setting but
what TLS or h2c needs. Bodies have up to 64 KiB. Methods and transports take turns on the same path at the same
time; a request fails if its response is missing, incomplete or not 2xx.

There are %[4]d independent upstreams of each kind and delay: addresses of the delaying proxy, which lead to one server. What
` + "`upstreampool`" + ` learns belongs to an address, so that each of them is learned anew, from nothing, by the same requests; what
failed until then is counted apart. Once the timeout is known, each method is sent %[5]d times over each pair of transport and
delay: no failure of %[5]d shows that less than %.2[6]f %% fail, at a confidence of 95 %%.

So close to the timeout ` + "`upstreampool`" + ` opens a new connection; how seldom it does otherwise is measured below (reuse).
Of all requests, 99 %% were sent within %[7]v of the planned moment.`

// Run sweeps all upstreams.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	ms := time.Millisecond
	pl := plan{
		kinds:   servers.Kinds,
		methods: []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodGet, viaHTTP3},
		delays:  []time.Duration{0, 5 * ms, 20 * ms},
		pools:   256, rounds: 8, parallel: 3,
	}
	if o.Quick {
		pl = plan{
			kinds:   []servers.Kind{servers.Node, servers.GoH2, servers.Nginx},
			methods: []string{http.MethodPost},
			delays:  []time.Duration{0, 5 * ms},
			pools:   64, rounds: 10, parallel: 6,
		}
	}
	for _, kind := range pl.kinds {
		if err := kind.Installed(); err != nil {
			return nil, err
		}
	}
	sweeps, crashed, err := pl.sweepAll(ctx, o)
	if err != nil {
		return nil, err
	}
	r := pl.report(slices.DeleteFunc(sweeps, func(s *sweep) bool { return s == nil }))
	if len(crashed) > 0 {
		r.Text += fmt.Sprintf("\n\nNot measured, since the server crashed in each of %d tries: %s.", mostTries, strings.Join(crashed, ", "))
	}
	return r, nil
}

// sweepAll sweeps each kind at each delay, some of them at the same time. It returns a
// sweep for each kind, nil where there is none, and whose servers crashed again and again.
func (pl plan) sweepAll(ctx context.Context, o report.Options) (sweeps []*sweep, crashed []string, failed error) {
	sweeps = make([]*sweep, len(pl.kinds))
	var mu sync.Mutex
	var wg sync.WaitGroup
	free := make(chan struct{}, pl.parallel)
	for _, delayed := range pl.delays {
		// Kinds are the inner loop: those that speak TLS and cost most of the CPU time
		// then run beside others.
		for i, kind := range pl.kinds {
			free <- struct{}{}
			wg.Go(func() {
				defer func() { <-free }()
				fmt.Fprintf(o.Progress, "boundary: %s, %v\n", kind.Name, delayed)
				s, err := pl.run(ctx, kind, delayed)
				for try := 1; try < mostTries && errors.As(err, new(crash)); try++ {
					// Node's HTTP/2 does (nodejs/node#65093).
					fmt.Fprintf(o.Progress, "boundary: once more: %v\n", err)
					s, err = pl.run(ctx, kind, delayed)
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.As(err, new(crash)):
					crashed = append(crashed, fmt.Sprintf("%s at %v", kind.Name, delayed))
				case err != nil:
					failed = errors.Join(failed, fmt.Errorf("%s, %v: %w", kind.Name, delayed, err))
				case sweeps[i] == nil:
					sweeps[i] = s
				default:
					sweeps[i].add(s)
				}
			})
		}
	}
	wg.Wait()
	return sweeps, crashed, failed
}

func (pl plan) report(sweeps []*sweep) *report.Result {
	var late []time.Duration
	for _, s := range sweeps {
		late = append(late, s.late...)
	}
	slices.Sort(late)
	each := pl.pools * pl.rounds
	r := &report.Result{
		Title:    "At the boundary",
		Versions: append(programs.Servers(pl.kinds), sidebyside.QUIC()),
		Text: fmt.Sprintf(text, below.Milliseconds(), above.Milliseconds(), closesAfter, pl.pools, each,
			100*-math.Log(0.05)/float64(each), late[len(late)*99/100].Round(100*time.Microsecond)),
	}
	stockPosts := 0
	for _, s := range sweeps {
		failed, sent := s.count(func(c cell) bool { return c.side == ours && c.known })
		stocks, _ := s.count(func(c cell) bool { return c.side == stock && c.known })
		r.None("boundary/"+s.kind.Name, s.kind.Name+": failed requests of `upstreampool`, once the timeout is known", failed, sent).With("transport http", stocks)
		failed, _ = s.count(func(c cell) bool { return c.side == stock && c.method == http.MethodPost })
		stockPosts += failed
	}
	var unknown, unknownSent, twice, posts, ignorant int
	for _, s := range sweeps {
		failed, sent := s.count(func(c cell) bool { return c.side == ours && !c.known })
		unknown, unknownSent = unknown+failed, unknownSent+sent
		_, sent = s.count(func(c cell) bool { return c.side == ours && c.method == http.MethodPost })
		twice, posts = twice+s.twice[cell{method: http.MethodPost, side: ours}], posts+sent
		ignorant += s.unknown
	}
	r.None("boundary/unknown", "failed requests of `upstreampool`, until the timeout is known", unknown, unknownSent)
	r.None("boundary/learned", "pools of `upstreampool` that did not know the timeout within a minute", ignorant, len(sweeps)*len(pl.delays)*pl.pools)
	r.None("boundary/twice", "POSTs of `upstreampool` that were executed twice", twice, posts)
	r.Claims = append(r.Claims, report.Claim{Name: "boundary/control", Text: "failed POSTs of `transport http`: the sweep can see failures",
		Value: fmt.Sprint(stockPosts), Limit: "more than 0", Holds: stockPosts > 0})
	r.Tables = []report.Table{pl.failedTable(sweeps, each), unknownTable(sweeps), pl.twiceTable(sweeps)}
	if t := failureTable(sweeps); len(t.Rows) > 0 {
		r.Tables = append(r.Tables, t)
	}
	for _, s := range sweeps {
		if s.kind.Name == servers.Node.Name || s.kind.Name == servers.GoH2.Name {
			r.Plots = append(r.Plots, pl.plot(s))
		}
	}
	return r
}

// count counts the requests of some cells.
func (s *sweep) count(want func(cell) bool) (failed, sent int) {
	for c, samples := range s.samples {
		if !want(c) {
			continue
		}
		sent += len(samples)
		for _, sample := range samples {
			if sample.failed {
				failed++
			}
		}
	}
	return failed, sent
}

func (pl plan) failedTable(sweeps []*sweep, each int) report.Table {
	t := report.Table{
		Title:   fmt.Sprintf("Failed requests of `transport http` / `upstreampool`, of %d each, once the timeout is known:", each),
		Columns: append([]string{"upstream", "delay each way"}, pl.methods...),
	}
	for _, s := range sweeps {
		for _, delay := range pl.delays {
			row := []string{s.kind.Name, delay.String()}
			for _, method := range pl.methods {
				a, sent := s.count(func(c cell) bool { return c == cell{delay, method, stock, true} })
				b, _ := s.count(func(c cell) bool { return c == cell{delay, method, ours, true} })
				if sent == 0 {
					row = append(row, "-")
					continue
				}
				row = append(row, fmt.Sprintf("%d / %d", a, b))
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func unknownTable(sweeps []*sweep) report.Table {
	t := report.Table{
		Title:   "The time until `upstreampool` knows the timeout, by pools, and the requests during that time:",
		Columns: []string{"upstream", "s (median, least and most)", "requests", "failed, `transport http`", "failed, `upstreampool`"},
	}
	for _, s := range sweeps {
		var learned []float64
		for _, d := range s.learned {
			learned = append(learned, d.Seconds())
		}
		spread := "never"
		if len(learned) > 0 {
			spread = report.SpreadOf(learned).String()
		}
		a, _ := s.count(func(c cell) bool { return c.side == stock && !c.known })
		b, sent := s.count(func(c cell) bool { return c.side == ours && !c.known })
		t.Rows = append(t.Rows, []string{s.kind.Name, spread, fmt.Sprint(sent), fmt.Sprint(a), fmt.Sprint(b)})
	}
	return t
}

func (pl plan) twiceTable(sweeps []*sweep) report.Table {
	t := report.Table{
		Title:   "Requests that were executed twice, of `transport http` / `upstreampool` (an idempotent method may be):",
		Columns: []string{"upstream"},
	}
	for _, method := range once {
		if slices.Contains(pl.methods, method) {
			t.Columns = append(t.Columns, method)
		}
	}
	for _, s := range sweeps {
		row := []string{s.kind.Name}
		for _, method := range t.Columns[1:] {
			row = append(row, fmt.Sprintf("%d / %d", s.twice[cell{method: method, side: stock}], s.twice[cell{method: method, side: ours}]))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// failureTable explains failed requests of ours.
func failureTable(sweeps []*sweep) report.Table {
	t := report.Table{
		Title:   fmt.Sprintf("Failed requests of `upstreampool` (the first %d of each upstream and delay), and what Caddy logged:", mostExplained),
		Columns: []string{"upstream", "delay", "method", "timeout known", "idle", "took", "result", "log"},
	}
	for _, s := range sweeps {
		for _, f := range s.failures {
			t.Rows = append(t.Rows, []string{s.kind.Name, f.delay.String(), f.method, fmt.Sprint(f.known), f.gap.String(), f.ended.Sub(f.began).String(), f.what,
				strings.ReplaceAll(strings.Join(f.log, "<br>"), "|", `\|`)})
		}
	}
	return t
}

// plot shows the errors of POSTs against the idle gap.
func (pl plan) plot(s *sweep) report.Plot {
	const width = 10 * time.Millisecond
	p := report.Plot{
		Name:  "boundary-" + strings.ToLower(strings.ReplaceAll(s.kind.Name, " ", "-")),
		Title: s.kind.Name + ": failed POSTs against idle time",
		X:     "idle time, relative to the upstream's timeout (ms)", Y: "failed (%)",
	}
	for _, side := range sides {
		for _, delay := range pl.delays {
			var failed, sent [int((below + above) / width)]float64
			for _, sample := range s.samples[cell{delay, http.MethodPost, side, true}] {
				bin := int((sample.gap - closesAfter + below) / width)
				if bin < 0 || bin >= len(sent) {
					continue // sent too late
				}
				sent[bin]++
				if sample.failed {
					failed[bin]++
				}
			}
			series := report.Series{Name: fmt.Sprintf("%s, %v each way", side, delay)}
			for bin := range sent {
				if sent[bin] > 0 {
					middle := time.Duration(bin)*width + width/2 - below
					series.Points = append(series.Points, [2]float64{float64(middle.Milliseconds()), 100 * failed[bin] / sent[bin]})
				}
			}
			p.Series = append(p.Series, series)
		}
	}
	return p
}
