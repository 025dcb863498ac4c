// Package gate measures what misdirected costs: throughput against a handler
// that only calls the next one, and lookups among many sites.
package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/authority"
)

// Limits of what the gate may cost.
const (
	leastThroughput = 0.98 // of a handler that only calls the next one
	mostLookup      = 1.5  // 100 000 sites against 10, the same ten names
)

func init() {
	caddy.RegisterModule(next{})
	caddy.RegisterModule(capture{})
}

// next only calls the next handler.
type next struct{}

func (next) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_next", New: func() caddy.Module { return new(next) }}
}

func (next) ServeHTTP(w http.ResponseWriter, r *http.Request, handler caddyhttp.Handler) error {
	return handler.ServeHTTP(w, r)
}

// capture keeps what authority knows of its server.
type capture struct{ next }

var captured *authority.Server

func (capture) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_capture", New: func() caddy.Module { return new(capture) }}
}

func (*capture) Provision(ctx caddy.Context) (err error) {
	captured, err = authority.ForServer(ctx)
	return err
}

// Run starts one Caddy with two servers that differ in that handler alone, and
// loads them in turn. Many short rounds give better ratios on a busy machine than
// few long ones.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	rounds, requests := 120, 10_000
	if o.Quick {
		rounds, requests = 10, 3000
	}
	result := &report.Result{
		Title: "What the 421 gate costs",
		Text: fmt.Sprintf("`misdirected` against a handler in the same place that only calls the next one, in front of a tiny response: "+
			"%d rounds of %d requests by h2load, in turn. And the decision's look-ups, among few sites and among many.", rounds, requests),
		Versions: []string{sidebyside.H2load()},
	}
	if err := measureLookups(result, o, min(rounds, 30)); err != nil {
		return nil, err
	}
	throughput := sidebyside.Table("misdirected", "bench_next")
	err := sidebyside.Run(map[string]map[string]any{
		"bench_next":  {"handle": []any{map[string]any{"handler": "bench_next"}}},
		"misdirected": {"handle": []any{map[string]any{"handler": "misdirected"}}},
	}, func(b *sidebyside.Bench) error {
		for _, protocol := range []struct {
			name  string
			flags []string
		}{{"h2", []string{"-c", "16", "-m", "8"}}, {"h1", []string{"--h1", "-c", "32"}}} {
			figures, err := b.Measure(ctx, rounds, sidebyside.Pressure{Requests: requests, Flags: protocol.flags})
			if err != nil {
				return err
			}
			r := figures.Compare("misdirected", "bench_next")
			result.AtLeast("gate/"+protocol.name, "throughput over "+protocol.name+" with the gate, of that without", r.Ratio.Median, o.Loose(leastThroughput))
			throughput.Rows = append(throughput.Rows, r.Row(protocol.name, "misdirected", "bench_next"))
		}
		return nil
	})
	result.Tables = append(result.Tables, throughput)
	return result, err
}

// measureLookups adds table, plot and claim on look-ups.
func measureLookups(result *report.Result, o report.Options, rounds int) error {
	sizes := []int{10, 100_000}
	if o.Quick {
		sizes[1] = 10_000
	}
	perName, random, err := lookups(sizes, rounds)
	if err != nil {
		return err
	}
	result.AtMost("gate/lookup", fmt.Sprintf("looking up the same 10 names takes as long among %d sites as among %d", sizes[1], sizes[0]),
		perName[1]/perName[0], o.LooseMost(mostLookup))
	table := report.Table{Title: "Looking up the site and TLS policy of two names, ns:", Columns: []string{"names", "10 sites", fmt.Sprintf("%d sites", sizes[1])}}
	plot := report.Plot{Name: "gate", Title: "Gate: look-up time against the number of sites", X: "sites", Y: "ns", LogX: true}
	for _, row := range []struct {
		names string
		ns    []float64
	}{{"the same 10", perName}, {"random", random}} {
		table.Rows = append(table.Rows, []string{row.names, fmt.Sprintf("%.0f", row.ns[0]), fmt.Sprintf("%.0f", row.ns[1])})
		var points [][2]float64
		for i, ns := range row.ns {
			points = append(points, [2]float64{float64(sizes[i]), ns})
		}
		plot.Series = append(plot.Series, report.Series{Name: row.names, Points: points})
	}
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, plot)
	return nil
}

// lookups returns the median nanoseconds of a decision's lookups among so many
// sites: of the same ten names, and of random ones.
func lookups(sizes []int, rounds int) (hot, random []float64, err error) {
	names := make([][]string, len(sizes))
	snapshots := make([]*authority.Snapshot, len(sizes))
	for i, size := range sizes {
		var hosts []string
		var routes []any
		for n := range size {
			host := fmt.Sprintf("host-%d.bench.test", n)
			hosts = append(hosts, host)
			routes = append(routes, map[string]any{"match": []any{map[string]any{"host": []string{host}}}, "terminal": true})
		}
		rand.Shuffle(len(hosts)-10, func(i, j int) { hosts[i+10], hosts[j+10] = hosts[j+10], hosts[i+10] })
		names[i] = hosts
		routes = append(routes, map[string]any{"handle": []any{map[string]any{"handler": "bench_capture"}}})
		_, err := provision(map[string]any{"srv0": map[string]any{
			"listen": []string{"127.0.0.1:8443"}, "automatic_https": map[string]any{"disable": true},
			"tls_connection_policies": []any{map[string]any{}}, "routes": routes,
		}})
		if err != nil {
			return hot, random, err
		}
		snapshots[i] = captured.Snapshot()
	}
	measure := func(s *authority.Snapshot, names []string) float64 {
		const pairs = 200_000
		start := time.Now()
		for n := range pairs {
			a, b := names[n%len(names)], names[(n+1)%len(names)]
			if s.SameSite(a, b) || !s.SamePolicy(a, b) {
				panic("the lookup is wrong")
			}
		}
		return float64(time.Since(start).Nanoseconds()) / pairs
	}
	hots, randoms := make([][]float64, len(sizes)), make([][]float64, len(sizes))
	for range rounds {
		for i, s := range snapshots {
			hots[i] = append(hots[i], measure(s, names[i][:10]))
			randoms[i] = append(randoms[i], measure(s, names[i]))
		}
	}
	for i := range sizes {
		hot, random = append(hot, report.Median(hots[i])), append(random, report.Median(randoms[i]))
	}
	return hot, random, nil
}

func provision(servers map[string]any) (caddy.Context, error) {
	app, err := json.Marshal(map[string]any{"servers": servers})
	if err != nil {
		return caddy.Context{}, err
	}
	return caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
		AppsRaw: caddy.ModuleMap{"http": app},
	})
}
