// Command origin measures what the origin listener wrapper costs.
//
//	go run ./bench/origin [-rounds 100] [-requests 10000] [-connections 300]
//
// It needs h2load (package nghttp2-client) and loads two servers of one Caddy in
// turn, with the wrapper and without: many requests on few connections, and one
// request on each connection. It fails when a ratio misses its limit.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"

	_ "github.com/caddy-connreuse/connreuse"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// leastThroughput is that with the wrapper, of that without.
const leastThroughput = 0.98

func main() {
	if sidebyside.RunsAsCaddy() {
		return
	}
	rounds := flag.Int("rounds", 100, "rounds; the median counts")
	requests := flag.Int("requests", 10_000, "requests of one load on few connections")
	connections := flag.Int("connections", 300, "connections of one load with one request each")
	flag.Parse()

	missed := false
	servers := map[string]map[string]any{
		"with":    {"listener_wrappers": []any{map[string]any{"wrapper": "origin"}}},
		"without": {},
	}
	fmt.Printf("%s\n\n| requests/s, median of %d rounds | without | with origin | with / without | limit | CPU time of Caddy for a request, with / without |\n|---|---|---|---|---|---|\n", sidebyside.Versions(), *rounds)
	err := sidebyside.Run(servers, func(b *sidebyside.Bench) error {
		for _, load := range []struct {
			name     string
			requests int
			flags    []string
		}{
			{fmt.Sprintf("%d on 16 connections", *requests), *requests, []string{"-c", "16", "-m", "8"}},
			{fmt.Sprintf("one on each of %d connections", *connections), *connections, []string{"-c", strconv.Itoa(*connections), "-m", "1"}},
		} {
			r, err := b.Compare("with", "without", *rounds, load.requests, load.flags...)
			if err != nil {
				return err
			}
			verdict := "ok"
			if r.Ratio.Median < leastThroughput {
				verdict, missed = "MISSED", true
			}
			fmt.Printf("| %s | %.0f | %.0f | %v | at least %.2f: %s | %v |\n", load.name, r.Rates["without"], r.Rates["with"], r.Ratio, leastThroughput, verdict, r.CPU)
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "origin:", err)
		os.Exit(1)
	}
	if missed {
		os.Exit(1)
	}
}
