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
	grown    = "upstreampool, stack grown early"
)

// Run loads three servers of one Caddy in turn, which differ in the transport to
// one nginx.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	rounds, requests := 30, 8000
	if o.Quick {
		rounds, requests = 5, 4000
	}
	result := &report.Result{
		Title: "Throughput to an upstream",
		Text: fmt.Sprintf("`upstreampool` against Caddy's own `transport http`, with its defaults (32 idle connections) and with "+
			"`keepalive_idle_conns_per_host 512`: tiny answers from nginx over HTTP/1.1, %d rounds of %d requests by h2load, in turn. A handler in "+
			"front that grows the stack of a request early is shown beside.", rounds, requests),
		Versions: append(programs.Versions("nginx"), sidebyside.H2load()),
	}
	nginx, stop, err := programs.Upstream()
	if err != nil {
		return nil, err
	}
	defer stop()

	others := []string{stock, stock512, grown}
	plot := report.Plot{Name: "throughput", Title: "Throughput of upstreampool", Bars: true, X: "load", Y: "of the other transport's"}
	for _, with := range others {
		result.Tables = append(result.Tables, sidebyside.Table(ours, with))
		plot.Series = append(plot.Series, report.Series{Name: "against " + with})
	}
	err = sidebyside.Run(sides(nginx), func(b *sidebyside.Bench) error {
		for _, load := range []struct {
			name, what string
			flags      []string
			least      map[string]float64
		}{
			{"h2", "TLS, HTTP/2, 128 concurrent requests", []string{"-c", "16", "-m", "8"}, map[string]float64{stock: 1.2, stock512: 1}},
			{"h1", "TLS, HTTP/1.1, 64 connections", []string{"--h1", "-c", "64"}, map[string]float64{stock: 1, stock512: 1}},
		} {
			results, err := b.Compare(ctx, ours, others, rounds, requests, load.flags...)
			if err != nil {
				return err
			}
			plot.Labels = append(plot.Labels, load.what)
			for i, with := range others {
				plot.Series[i].Points = append(plot.Series[i].Points, [2]float64{float64(len(plot.Labels) - 1), results[i].Ratio.Median})
				table := &result.Tables[i]
				table.Rows = append(table.Rows, results[i].Row(load.what, ours, with))
				if with == grown {
					continue
				}
				claim := fmt.Sprintf("throughput/%s-%d", load.name, []int{32, 512}[i])
				result.AtLeast(claim, load.what+": throughput of `upstreampool`, of that of "+with, results[i].Ratio.Median, o.Loose(load.least[with]))
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
	sides[grown] = proxy(map[string]any{"protocol": "upstreampool"})
	sides[grown]["handle"] = append([]any{map[string]any{"handler": "bench_grow"}}, sides[grown]["handle"].([]any)...)
	return sides
}
