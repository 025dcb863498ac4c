// Package peers puts this project beside other proxies: which requests fail when
// an upstream closes idle connections, and how many pass in a second.
package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/delay"
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// The peers, by their names in tables.
const (
	stock  = "transport http"
	safe   = "HAProxy safe"
	always = "HAProxy always"
	nginx  = "nginx"
	apache = "Apache"
	h2o    = "H2O"
	ours   = "upstreampool"
)

var names = []string{stock, safe, always, nginx, apache, h2o, ours}

// delays are those of the way to the upstream, each way.
var delays = []time.Duration{0, 5 * time.Millisecond}

// keepAlive is the keep-alive timeout of the upstream that closes connections.
const keepAlive = time.Second

// Gaps reach from before the upstream closes to after it.
const before, after = 50 * time.Millisecond, 50 * time.Millisecond

// Run loads all peers in front of one Node, which closes idle connections, and of
// one nginx, for throughput.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	bursts, clients, rounds, requests := 40, 32, 10, 20_000
	if o.Quick {
		bursts, clients, rounds, requests = 5, 32, 3, 2000
	}
	result := &report.Result{
		Title: "Beside other proxies",
		Text: fmt.Sprintf("The same load on all, over TLS: an upstream (Node) that closes idle connections, and %d bursts of %d requests, half of "+
			"them GET and half POST. The gaps between bursts end from %v before that moment to %v after it. No client repeats a request. "+
			"A proxy in between delays what travels to and from the upstream. The proxies are Caddy with `transport http` and with "+
			"`upstreampool`, HAProxy with `http-reuse safe` (its default) and `always`, nginx, Apache and H2O. nginx has what it needs to reuse connections "+
			"(`keepalive 64`, `proxy_http_version 1.1`) and one worker per core, Apache has enough workers for the clients. All else is as each has it by default. Node announces "+
			"%v and closes after %v: `upstreampool` opens new connections after these gaps, and reuses younger ones. Of the other proxies "+
			"nothing is claimed.", bursts, clients, before, after, keepAlive, keepAlive+servers.Node.Late),
		Versions: append(programs.Versions("haproxy", "nginx", "apache2", "h2o", "node"), sidebyside.H2load()),
	}
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	node, err := startUpstream(dir, servers.Node, keepAlive)
	if err != nil {
		return nil, err
	}
	defer func() { _ = node.Stop(false) }()
	tiny, err := startUpstream(dir, servers.Nginx, 75*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tiny.Stop(false) }()

	routes := make(map[string][]route)
	for _, d := range delays {
		distance, err := delay.Start(len(names), node.Addr, d)
		if err != nil {
			return nil, err
		}
		defer distance.Close()
		for i, addr := range distance.Addrs() {
			routes[names[i]] = append(routes[names[i]], route{fmt.Sprintf("delay%d", d.Milliseconds()), path(d), addr})
		}
	}
	for _, name := range names {
		routes[name] = append(routes[name], route{"tiny", "/", tiny.Addr})
	}
	err = run(dir, routes, func(addrs map[string]string) error {
		if err := failures(ctx, result, addrs, gaps(node.Closes(), bursts), clients); err != nil {
			return err
		}
		return throughput(ctx, result, addrs, rounds, requests)
	})
	return result, err
}

// path is the prefix of the paths that lead to Node at a distance.
func path(d time.Duration) string { return fmt.Sprintf("/%dms/", d.Milliseconds()) }

// gaps are evenly spread around the moment at which the upstream closes, and in
// no order.
func gaps(closes time.Duration, n int) []time.Duration {
	gaps := make([]time.Duration, n)
	for i, at := range rand.Perm(n) {
		gaps[i] = closes - before + (before+after)*time.Duration(at)/time.Duration(max(1, n-1))
	}
	return gaps
}

func startUpstream(dir string, kind servers.Kind, keepAlive time.Duration) (*servers.Server, error) {
	own := filepath.Join(dir, kind.Name)
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, err
	}
	return servers.Start(own, kind, keepAlive)
}

// run starts all peers, calls f with their addresses and stops them.
func run(dir string, routes map[string][]route, f func(addrs map[string]string) error) error {
	cert := filepath.Join(dir, "cert.pem")
	if err := programs.WriteCertificate(cert); err != nil {
		return err
	}
	haproxy, reuse, err := startHAProxy(dir, cert, []string{"safe", "always"}, map[string][]route{"safe": routes[safe], "always": routes[always]})
	if err != nil {
		return err
	}
	defer haproxy.Kill()
	proxy, nginxAddr, err := startNginx(dir, cert, routes[nginx])
	if err != nil {
		return err
	}
	defer proxy.Kill()
	httpd, apacheAddr, err := startApache(dir, cert, routes[apache])
	if err != nil {
		return err
	}
	defer httpd.Kill()
	server, h2oAddr, err := startH2O(dir, cert, routes[h2o])
	if err != nil {
		return err
	}
	defer server.Kill()
	servers := make(map[string]map[string]any)
	for name, protocol := range map[string]string{stock: "http", ours: "upstreampool"} {
		var proxies []any
		for _, r := range routes[name] {
			proxies = append(proxies, map[string]any{
				"match": []any{map[string]any{"path": []string{r.prefix + "*"}}},
				"handle": []any{map[string]any{
					"handler":   "reverse_proxy",
					"upstreams": []any{map[string]any{"dial": r.to}},
					"transport": map[string]any{"protocol": protocol},
				}},
			})
		}
		servers[name] = map[string]any{
			"routes": proxies,
			// An error that a route answers is not logged: there will be many.
			"errors": map[string]any{"routes": []any{map[string]any{"handle": []any{map[string]any{
				"handler": "static_response", "status_code": "{http.error.status_code}",
			}}}}},
		}
	}
	return sidebyside.Run(servers, func(b *sidebyside.Bench) error {
		return f(map[string]string{
			stock: b.Addr(stock), ours: b.Addr(ours),
			safe: reuse[0], always: reuse[1], nginx: nginxAddr, apache: apacheAddr, h2o: h2oAddr,
		})
	})
}

// failures counts what fails with each delay, all peers at the same time.
func failures(ctx context.Context, result *report.Result, addrs map[string]string, gaps []time.Duration, clients int) error {
	table := report.Table{
		Title:   "Failed requests:",
		Columns: []string{"proxy", "delay, each way"},
	}
	for _, method := range methods {
		table.Columns = append(table.Columns, "failed "+method, "per 1000")
	}
	plot := report.Plot{
		Name: "peers-failures", Title: "Requests that fail when the upstream closes idle connections", Bars: true,
		X: "proxy", Y: "failed requests per 1000", Labels: names,
	}
	for _, d := range delays {
		counts, errs := make([]count, len(names)), make([]error, len(names))
		var all sync.WaitGroup
		for i, name := range names {
			all.Go(func() { counts[i], errs[i] = sweep(ctx, addrs[name], path(d), clients, gaps) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		for _, method := range methods {
			series := report.Series{Name: fmt.Sprintf("%s, %v each way", method, d)}
			for i := range names {
				series.Points = append(series.Points, [2]float64{float64(i), counts[i].perThousand(method)})
			}
			plot.Series = append(plot.Series, series)
		}
		for i, name := range names {
			row := []string{name, d.String()}
			for _, method := range methods {
				row = append(row, fmt.Sprintf("%d of %d", counts[i].failed[method], counts[i].sent[method]), fmt.Sprintf("%.1f", counts[i].perThousand(method)))
				if name == ours {
					claim := result.None(fmt.Sprintf("peers/%s-%dms", strings.ToLower(method), d.Milliseconds()),
						fmt.Sprintf("%s requests that fail with `upstreampool`, %v each way", method, d), counts[i].failed[method], counts[i].sent[method])
					for other, c := range counts {
						if other != i {
							claim.With(names[other], c.failed[method])
						}
					}
				}
			}
			table.Rows = append(table.Rows, row)
		}
	}
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, plot)
	return nil
}

// throughput loads the peers in turn, in an order that rotates.
func throughput(ctx context.Context, result *report.Result, addrs map[string]string, rounds, requests int) error {
	rates := make(map[string][]float64)
	order := slices.Clone(names)
	for range rounds {
		order = append(order[1:], order[0])
		for _, name := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			rate, err := sidebyside.Load(addrs[name], requests, "-c", "16", "-m", "8")
			if err != nil {
				return fmt.Errorf("loading %s: %w", name, err)
			}
			rates[name] = append(rates[name], rate)
		}
	}
	table := report.Table{
		Title: fmt.Sprintf("Throughput, TLS, HTTP/2, 128 concurrent requests, tiny answers from nginx over HTTP/1.1, %d rounds of %d requests "+
			"(median; ratio: median, least and most of all rounds):", rounds, requests),
		Columns: []string{"proxy", "requests/s", "of " + ours},
	}
	for _, name := range names {
		ratios := make([]float64, rounds)
		for i := range ratios {
			ratios[i] = rates[name][i] / rates[ours][i]
		}
		table.Rows = append(table.Rows, []string{name, fmt.Sprintf("%.0f", report.Median(rates[name])), report.SpreadOf(ratios).String()})
	}
	result.Tables = append(result.Tables, table)
	return nil
}
