// Package throughput measures how many requests a second pass through a
// reverse_proxy with each transport.
package throughput

import (
	"context"
	"fmt"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// The servers, by what their transport is called in tables.
const (
	ours     = "upstreampool"
	stock    = "transport http"
	stock512 = "transport http with 512 idle"
	gated    = "misdirected and upstreampool"
	grown    = "upstreampool, stack grown early"
)

// A pair is what is compared, and what the ratio must be at least, by load; 0 is no
// claim.
type pair struct {
	what, with string
	claim      string
	least      map[string]float64
}

var pairs = []pair{
	{ours, stock, "32", map[string]float64{"h2": 1.2, "h1": 1}},
	{ours, stock512, "512", map[string]float64{"h2": 1, "h1": 1}},
	{gated, stock512, "gated", map[string]float64{"h2": 1, "h1": 1}},
	{ours, grown, "", nil},
}

// Run loads the servers of one Caddy in turn, which differ in the transport to one
// nginx, and in what stands in front.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	rounds, requests := 30, 8000
	if o.Quick {
		rounds, requests = 5, 4000
	}
	result := &report.Result{
		Title: "Throughput to an upstream",
		Text: fmt.Sprintf("`upstreampool` against Caddy's own `transport http`, with its defaults (32 idle connections) and with "+
			"`keepalive_idle_conns_per_host 512`. nginx gives tiny answers over HTTP/1.1: %d rounds of %d requests by h2load, in turn, each after a tenth of it as a warm-up. "+
			"Shown beside are `misdirected` in front, and a handler in front that grows the stack of a request early.", rounds, requests),
		Versions: append(programs.Versions("nginx"), sidebyside.H2load()),
	}
	nginx, stop, err := programs.Upstream()
	if err != nil {
		return nil, err
	}
	defer stop()

	plot := report.Plot{Name: "throughput", Title: "Throughput of upstreampool", Bars: true, X: "load", Y: "of the other's"}
	for _, p := range pairs {
		result.Tables = append(result.Tables, sidebyside.Table(p.what, p.with))
		plot.Series = append(plot.Series, report.Series{Name: p.what + " against " + p.with})
	}
	err = sidebyside.Run(sides(nginx), func(b *sidebyside.Bench) error {
		for _, load := range []struct {
			name, what string
			flags      []string
		}{
			{"h2", "TLS, HTTP/2, 128 concurrent requests", []string{"-c", "16", "-m", "8"}},
			{"h1", "TLS, HTTP/1.1, 64 connections", []string{"--h1", "-c", "64"}},
		} {
			figures, err := b.Measure(ctx, rounds, sidebyside.Pressure{WarmUp: requests / 10, Requests: requests, Flags: load.flags})
			if err != nil {
				return err
			}
			plot.Labels = append(plot.Labels, load.what)
			for i, p := range pairs {
				found := figures.Compare(p.what, p.with)
				plot.Series[i].Points = append(plot.Series[i].Points, [2]float64{float64(len(plot.Labels) - 1), found.Ratio.Median})
				table := &result.Tables[i]
				table.Rows = append(table.Rows, found.Row(load.what, p.what, p.with))
				if p.claim != "" {
					result.AtLeast("throughput/"+load.name+"-"+p.claim, fmt.Sprintf("%s: throughput of %s, of that of %s", load.what, p.what, p.with),
						found.Ratio.Median, o.Loose(p.least[load.name]))
				}
			}
		}
		return nil
	})
	result.Plots = append(result.Plots, plot)
	return result, err
}

// sides are the servers that differ in the transport to an upstream.
func sides(upstream string) map[string]map[string]any {
	proxy := func(transport map[string]any) map[string]any {
		return map[string]any{"handle": []any{map[string]any{
			"handler":   "reverse_proxy",
			"upstreams": []any{map[string]any{"dial": upstream}},
			"transport": transport,
		}}}
	}
	sides := map[string]map[string]any{
		ours:     proxy(map[string]any{"protocol": "upstreampool"}),
		stock:    proxy(map[string]any{"protocol": "http"}),
		stock512: proxy(map[string]any{"protocol": "http", "keep_alive": map[string]any{"max_idle_conns_per_host": 512}}),
	}
	for name, handler := range map[string]string{gated: "misdirected", grown: "bench_grow"} {
		sides[name] = proxy(map[string]any{"protocol": "upstreampool"})
		sides[name]["handle"] = append([]any{map[string]any{"handler": handler}}, sides[name]["handle"].([]any)...)
	}
	return sides
}
