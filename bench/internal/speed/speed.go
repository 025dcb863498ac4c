// Package speed measures how long requests take under load, how long Caddy waits for
// its locks then, and how much memory connections and requests take.
package speed

import (
	"context"
	"fmt"
	"math"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// The sides, by what their transport is called in tables. Both keep as many idle
// connections as there are requests: stock with its defaults is in another section.
const (
	ours  = "upstreampool"
	stock = "transport http with 12 000 idle"
	again = "the same once more" // so that one sees what is chance
	gated = "misdirected and upstreampool"
)

// mostP99 is that of ours, of stock's: from round to round the ratio varies by a third.
const mostP99 = 1.25

// mostChance is how much more lock wait may be chance at most, however much two of stock differ.
const mostChance = 1.5

// leastWait is what shorter waits are not told apart from, of the time that a request takes.
const leastWait = 0.01

// mostIdle is what both keep.
const mostIdle = 12_000

// A side is one transport.
type side struct {
	name, protocol string
	gate           bool
	quick, slow    string // addresses of Caddy in front of nginx, and of the upstream that a request names
}

// figures are those of one side under one load, round by round.
type figures struct{ rate, p50, p99, wait []float64 }

// Run loads both in turn.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	rounds, requests, crowds := 20, 8000, [2]crowd{{1000, 5}, {10_000, 3}}
	if o.Quick {
		rounds, requests, crowds = 5, 2000, [2]crowd{{250, 3}, {1000, 3}}
	}
	result := &report.Result{
		Title: "How long requests take under load",
		Text: fmt.Sprintf("`upstreampool` against `transport http` with `keepalive_idle_conns_per_host %d`: tiny answers from nginx over HTTP/1.1, clients of HTTP/2 "+
			"and HTTP/3 on %d connections, %d rounds of %d requests in turn. Lock wait is the time that all goroutines of Caddy wait for locks "+
			"(`/sync/mutex/wait/total`). It varies much from round to round, so stock is there twice. The claim is on the median of ours, of stock's in the same round. "+
			"Its limit is 1, and what is chance: two standard errors of the median of one stock's, of the other's. "+
			"For the claim, %.0f %% of the time that a request takes is added to all waits: shorter ones are chance as well.", mostIdle, connections, rounds, requests, 100*leastWait),
		Versions: append(programs.Versions("nginx"), sidebyside.QUIC()),
	}
	nginx, stop, err := programs.Upstream()
	if err != nil {
		return nil, err
	}
	defer stop()
	own, its, more, shut := &side{name: ours, protocol: "upstreampool"}, &side{name: stock, protocol: "http"}, &side{name: again, protocol: "http"},
		&side{name: gated, protocol: "upstreampool", gate: true}
	admin, caddy, err := start([]*side{own, its, more, shut}, nginx)
	if err != nil {
		return nil, err
	}
	defer caddy.Stop()
	if err := measureLoad(ctx, result, o, []*side{own, its, more}, admin, rounds, requests); err != nil {
		return nil, err
	}
	return result, measureMemory(ctx, result, []*side{own, its, shut}, admin, crowds)
}

// start starts Caddy and returns the address of its admin API.
func start(sides []*side, nginx string) (admin string, caddy *sidebyside.Caddy, err error) {
	config := make(map[string]any)
	for _, s := range sides {
		for kind, at := range map[string]*string{"quick": &s.quick, "slow": &s.slow} {
			if *at, err = programs.Address(); err != nil {
				return "", nil, err
			}
			to := nginx
			if kind == "slow" {
				to = "{http.request.header." + upstreamField + "}"
			}
			handlers := []any{map[string]any{
				"handler":        "reverse_proxy",
				"upstreams":      []any{map[string]any{"dial": to}},
				"transport":      map[string]any{"protocol": s.protocol, "keep_alive": map[string]any{"max_idle_conns_per_host": mostIdle}},
				"flush_interval": -1,
			}}
			if s.gate {
				handlers = append([]any{map[string]any{"handler": "misdirected"}}, handlers...)
			}
			config[kind+" "+s.name] = map[string]any{
				"listen": []string{*at}, "automatic_https": map[string]any{"disable_redirects": true}, "tls_connection_policies": []any{map[string]any{}},
				"routes": []any{sidebyside.Site(sidebyside.Routes(handlers...), sidebyside.Host)},
			}
		}
	}
	if admin, err = programs.Address(); err != nil {
		return "", nil, err
	}
	caddy, err = sidebyside.StartCaddy(map[string]any{
		"admin":   map[string]any{"listen": admin},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
	}, config)
	if err != nil {
		return "", nil, err
	}
	for _, s := range sides {
		for _, addr := range []string{s.quick, s.slow} {
			if err := caddy.Certified(addr); err != nil {
				caddy.Stop()
				return "", nil, err
			}
		}
	}
	return admin, caddy, nil
}

// measureLoad adds the table, the claims and the plot on load.
func measureLoad(ctx context.Context, r *report.Result, o report.Options, sides []*side, admin string, rounds, requests int) error {
	table := report.Table{
		Title:   "Medians of all rounds:",
		Columns: []string{"clients", "at a time", "transport", "requests/s", "p50, ms", "p99, ms", "lock wait for 1000 requests, ms"},
	}
	plot := report.Plot{Name: "speed", Title: "p99 under load", Bars: true, X: "clients", Y: "ms"}
	for _, s := range sides {
		plot.Series = append(plot.Series, report.Series{Name: s.name})
	}
	for _, protocol := range []string{"h2", "h3"} {
		for _, concurrent := range []int{128, 1024} {
			found, err := inTurn(ctx, sides, admin, protocol, concurrent, rounds, requests)
			if err != nil {
				return fmt.Errorf("%s, %d at a time: %w", protocol, concurrent, err)
			}
			plot.Labels = append(plot.Labels, fmt.Sprintf("%s, %d at a time", protocol, concurrent))
			for i, s := range sides {
				f := found[s.name]
				table.Rows = append(table.Rows, []string{protocol, fmt.Sprint(concurrent), s.name, fmt.Sprintf("%.0f", report.Median(f.rate)),
					one(report.Median(f.p50)), one(report.Median(f.p99)), one(report.Median(f.wait))})
				plot.Series[i].Points = append(plot.Series[i].Points, [2]float64{float64(len(plot.Labels) - 1), report.Median(f.p99)})
			}
			addLoadClaims(r, o, fmt.Sprintf("speed/%s-%d-", protocol, concurrent), fmt.Sprintf("%s, %d requests at a time: ", protocol, concurrent), found)
		}
	}
	r.Tables, r.Plots = append(r.Tables, table), append(r.Plots, plot)
	return nil
}

// addLoadClaims adds those on one load.
func addLoadClaims(r *report.Result, o report.Options, name, what string, found map[string]*figures) {
	own, its, more := found[ours], found[stock], found[again]
	r.AtMost(name+"p99", what+"p99 of `upstreampool`, of that of stock (median of rounds)", report.Median(ratios(own.p99, its.p99)), o.LooseMost(mostP99))
	waits := make(map[*figures][]float64) // and a little of a request's time
	both := make([]float64, len(its.wait))
	for i := range both {
		little := 1000 * leastWait * (its.p50[i] + more.p50[i]) / 2
		for _, f := range []*figures{own, its, more} {
			waits[f] = append(waits[f], f.wait[i]+little)
		}
		both[i] = (waits[its][i] + waits[more][i]) / 2
	}
	equals := ratios(waits[its], waits[more])
	r.AtMost(name+"locks", fmt.Sprintf("%slock wait of a request with `upstreampool`, of that with stock (median of rounds; of one stock, of the other: %s)", what, report.SpreadOf(equals)),
		report.Median(ratios(waits[own], both)), o.LooseMost(min(chance(equals), mostChance)))
}

// chance is how far from 1 the median of such ratios is by chance, at most: two standard
// errors of it, of a sample of logarithms around 0 whose median distance is known.
func chance(equals []float64) float64 {
	const (
		deviation = 1.4826 // of a normal distribution, of its median distance
		ofMedian  = 1.2533 // its standard error, of that of a mean
	)
	distances := make([]float64, len(equals))
	for i, ratio := range equals {
		distances[i] = math.Abs(math.Log(ratio))
	}
	return math.Exp(2 * deviation * ofMedian * report.Median(distances) / math.Sqrt(float64(len(equals))))
}

// inTurn loads the sides in turn, the other one first every other time.
func inTurn(ctx context.Context, sides []*side, admin, protocol string, concurrent, rounds, requests int) (map[string]*figures, error) {
	found := make(map[string]*figures)
	loaders := make(map[string]*loader)
	for _, s := range sides {
		l := newLoader(s.quick, protocol, connections)
		defer l.end()
		if err := l.warm(ctx, concurrent); err != nil {
			return nil, err
		}
		found[s.name], loaders[s.name] = new(figures), l
	}
	for n := range rounds {
		for i := range sides {
			s := sides[(i+n)%len(sides)]
			before, err := sidebyside.ReadUsage(admin, true)
			if err != nil {
				return nil, err
			}
			one, err := loaders[s.name].round(ctx, concurrent, requests)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			after, err := sidebyside.ReadUsage(admin, false)
			if err != nil {
				return nil, err
			}
			f := found[s.name]
			f.rate = append(f.rate, one.rate)
			f.p50 = append(f.p50, milliseconds(one.p50))
			f.p99 = append(f.p99, milliseconds(one.p99))
			f.wait = append(f.wait, 1e6*(after.LockWait-before.LockWait)/float64(requests))
		}
	}
	return found, nil
}

func ratios(a, b []float64) []float64 {
	all := make([]float64, len(a))
	for i := range a {
		all[i] = a[i] / b[i]
	}
	return all
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func one(v float64) string { return fmt.Sprintf("%.1f", v) }
