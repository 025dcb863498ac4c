// Package origin measures what the origin listener wrapper costs.
package origin

import (
	"context"
	"fmt"
	"strconv"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// leastThroughput is that with the wrapper, of that without.
const leastThroughput = 0.98

// Run loads two servers of one Caddy in turn, with the wrapper and without: many
// requests on few connections, and one request on each connection.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	rounds, requests, connections := 60, 10_000, 600
	if o.Quick {
		rounds, requests, connections = 10, 3000, 100
	}
	result := &report.Result{
		Title:    "What ORIGIN frames cost",
		Text:     fmt.Sprintf("A server with the `origin` listener wrapper against one without, over HTTP/2: %d rounds by h2load, in turn.", rounds),
		Versions: []string{sidebyside.H2load()},
	}
	servers := map[string]map[string]any{
		"origin":  {"listener_wrappers": []any{map[string]any{"wrapper": "origin", "origins": []string{"sites"}}}},
		"without": {},
	}
	throughput := sidebyside.Table("origin", "without")
	err := sidebyside.Run(servers, func(b *sidebyside.Bench) error {
		for _, load := range []struct {
			claim, name string
			requests    int
			flags       []string
		}{
			{"steady", fmt.Sprintf("%d requests on 16 connections", requests), requests, []string{"-c", "16", "-m", "8"}},
			{"connections", fmt.Sprintf("one request on each of %d connections", connections), connections, []string{"-c", strconv.Itoa(connections), "-m", "1"}},
		} {
			figures, err := b.Measure(ctx, rounds, sidebyside.Pressure{Requests: load.requests, Flags: load.flags})
			if err != nil {
				return err
			}
			r := figures.Compare("origin", "without")
			result.AtLeast("origin/"+load.claim, load.name+": throughput with ORIGIN frames, of that without", r.Ratio.Median, o.Loose(leastThroughput))
			throughput.Rows = append(throughput.Rows, r.Row(load.name, "origin", "without"))
		}
		return nil
	})
	result.Tables = append(result.Tables, throughput)
	return result, err
}
