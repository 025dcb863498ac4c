// Command gate measures what misdirected costs: throughput against a handler
// that only calls the next one, and lookups among many sites.
//
//	go run ./bench/gate [-rounds 200] [-requests 10000]
//
// It needs h2load (package nghttp2-client), starts one Caddy with two servers that
// differ in that handler alone, and loads them in turn. Many short rounds give
// better ratios on a busy machine than few long ones. It fails when a ratio misses
// its limit.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/caddy-connreuse/connreuse"
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

func main() {
	if sidebyside.RunsAsCaddy() {
		return
	}
	rounds := flag.Int("rounds", 200, "rounds; the median counts")
	requests := flag.Int("requests", 10_000, "requests of one load")
	flag.Parse()
	misses, err := bench(*rounds, *requests)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
	if misses > 0 {
		os.Exit(1)
	}
}

func bench(rounds, requests int) (misses int, err error) {
	verdict := func(ok bool) string {
		if ok {
			return "ok"
		}
		misses++
		return "MISSED"
	}

	fmt.Printf("%s\n\n", sidebyside.Versions())
	perName, random, err := lookups(min(rounds, 30))
	if err != nil {
		return 0, err
	}
	fmt.Printf("| lookup of site and TLS policy | 10 sites | 100 000 sites | ratio | limit |\n|---|---|---|---|---|\n")
	ratio := perName[1] / perName[0]
	fmt.Printf("| the same 10 names | %.0f ns | %.0f ns | %.2f | at most %.1f: %s |\n", perName[0], perName[1], ratio, mostLookup, verdict(ratio <= mostLookup))
	fmt.Printf("| random names | %.0f ns | %.0f ns | %.2f | |\n\n", random[0], random[1], random[1]/random[0])

	fmt.Printf("| requests/s, median of %d rounds of %d requests | bench_next | misdirected | misdirected / bench_next | limit | CPU time of Caddy for a request, misdirected / bench_next |\n|---|---|---|---|---|---|\n", rounds, requests)
	servers := map[string]map[string]any{
		"bench_next":  {"handle": []any{map[string]any{"handler": "bench_next"}}},
		"misdirected": {"handle": []any{map[string]any{"handler": "misdirected"}}},
	}
	err = sidebyside.Run(servers, func(b *sidebyside.Bench) error {
		for _, protocol := range []struct {
			name  string
			flags []string
		}{{"h2", []string{"-c", "16", "-m", "8"}}, {"h1", []string{"--h1", "-c", "32"}}} {
			r, err := b.Compare("misdirected", "bench_next", rounds, requests, protocol.flags...)
			if err != nil {
				return err
			}
			fmt.Printf("| %s | %.0f | %.0f | %v | at least %.2f: %s | %v |\n", protocol.name,
				r.Rates["bench_next"], r.Rates["misdirected"],
				r.Ratio, leastThroughput, verdict(r.Ratio.Median >= leastThroughput), r.CPU)
		}
		return nil
	})
	return misses, err
}

// lookups returns the median nanoseconds of a decision's lookups with 10 and
// 100 000 sites: of the same ten names, and of random ones.
func lookups(rounds int) (hot, random [2]float64, err error) {
	sizes := [2]int{10, 100_000}
	var names [2][]string
	var snapshots [2]*authority.Snapshot
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
	var hots, randoms [2][]float64
	for range rounds {
		for i, s := range snapshots {
			hots[i] = append(hots[i], measure(s, names[i][:10]))
			randoms[i] = append(randoms[i], measure(s, names[i]))
		}
	}
	for i := range sizes {
		hot[i], random[i] = sidebyside.Median(hots[i]), sidebyside.Median(randoms[i])
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
