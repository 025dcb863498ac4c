// Package coalescing measures how browsers use connections with 421s and ORIGIN
// frames, and what large origin sets cost.
package coalescing

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/logged"
	"github.com/caddy-connreuse/connreuse/bench/internal/network"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/internal/test/browser"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

const (
	example = "../example/coalescing/Caddyfile" // as from the folder of the program
	domain  = "page.test"
	delay   = 10 * time.Millisecond // each way
)

// hosts are the four of the example's page.
var hosts = []string{"a." + domain, "b." + domain, "c." + domain, "d." + domain}

// A scenario is how the page is served.
type scenario struct {
	name  string
	port  string // environment variable of the example's Caddyfile
	apart bool   // each host has an address of its own
	quick bool
}

const (
	openPage      = "no gate, no frames"
	exact         = "scope sni"
	exactFrames   = "scope sni, ORIGIN"
	covered       = "scope certificate"
	coveredFrames = "scope certificate, ORIGIN"
	apart         = "4 addresses, scope certificate"
	apartFrames   = "4 addresses, scope certificate, ORIGIN"
)

var scenarios = []scenario{
	{openPage, "OPEN_PORT", false, false},
	{exact, "EXACT_PORT", false, true},
	{exactFrames, "EXACT_FRAMES_PORT", false, true},
	{covered, "COVERED_PORT", false, false},
	{coveredFrames, "COVERED_FRAMES_PORT", false, false},
	{apart, "COVERED_PORT", true, false},
	{apartFrames, "COVERED_FRAMES_PORT", true, false},
}

// figures are those of all visits of one browser in one scenario.
type figures struct{ connections, handshakes, refusals, broken, load []int }

// Run lets browsers visit the page of example/coalescing, scenario by scenario, in
// turn, and then opens connections that are told of many origins.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	runs, connections := 3, 400
	chosen := scenarios
	if o.Quick {
		runs, connections = 1, 40
		chosen = slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !s.quick })
	}
	result := &report.Result{
		Title: "Control: browsers without HTTP/3, and large origin sets",
		Text: fmt.Sprintf("A page with four images of each of four hosts, behind one certificate and a network with a round trip of %v "+
			"(`example/coalescing`): %d visits of each kind, in turn, each with a new profile. Firefox knows ORIGIN frames on HTTP/2, Chromium does not. "+
			"HTTP/3 is off in both, so this shows what frames and 421s do by themselves. "+
			"And what it costs to tell a connection of many origins.", 2*delay, runs),
		Versions: browser.Versions(),
	}
	measured, err := visits(ctx, o, chosen, runs)
	if err != nil {
		return nil, err
	}
	addVisits(result, chosen, measured)
	return result, originSets(ctx, result, o, connections)
}

// visits returns what the browsers did, by browser and scenario.
func visits(ctx context.Context, o report.Options, chosen []scenario, runs int) (map[string]map[string]*figures, error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ports, env := make(map[string]string), []string{"STATE=" + dir, "DOMAIN=" + domain}
	for _, s := range scenarios {
		if ports[s.port] != "" {
			continue
		}
		port, err := port.Free()
		if err != nil {
			return nil, err
		}
		ports[s.port] = strconv.Itoa(port)
		env = append(env, s.port+"="+ports[s.port])
	}
	c, err := logged.Start(ctx, example, dir, "127.0.0.1:"+ports[scenarios[0].port], hosts[0], env...)
	if err != nil {
		return nil, err
	}
	defer c.Stop()

	measured := map[string]map[string]*figures{browser.Firefox.Name: {}, browser.Chromium.Name: {}}
	for run := range runs {
		for _, s := range chosen {
			for _, b := range []browser.Browser{browser.Firefox, browser.Chromium} {
				f := measured[b.Name][s.name]
				if f == nil {
					f = new(figures)
					measured[b.Name][s.name] = f
				}
				if err := f.visit(ctx, c, b, s, ports[s.port], dir); err != nil {
					return nil, fmt.Errorf("%s, %s: %w", b.Name, s.name, err)
				}
				fmt.Fprintf(o.Progress, "visit %d, %s, %s: %d connections, %d handshakes, %d 421s, %d broken images, loaded in %d ms\n",
					run+1, b.Name, s.name, f.connections[run], f.handshakes[run], f.refusals[run], f.broken[run], f.load[run])
			}
		}
	}
	return measured, nil
}

// visit adds the figures of one visit.
func (f *figures) visit(ctx context.Context, c *logged.Caddy, b browser.Browser, s scenario, port, state string) error {
	home, err := os.MkdirTemp("", "connreuse-browser-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)

	network, err := network.StartHosts(hosts, port, 11, s.apart, false, delay)
	if err != nil {
		return err
	}
	defer network.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	before := c.Log.Len()
	root := filepath.Join(state, "pki", "authorities", "local", "root.crt")
	v, err := b.Visit(ctx, browser.Options{Home: home, Root: root, Hosts: network.Addresses, NoHTTP3: true}, "https://"+hosts[0]+":"+port+"/", func() string { return c.Log.Since(before) })
	if err != nil {
		return err
	}
	f.connections = append(f.connections, len(v.Connections))
	f.handshakes = append(f.handshakes, network.Handshakes())
	f.refusals = append(f.refusals, v.Statuses[421])
	f.broken = append(f.broken, 1+4*len(hosts)-v.Statuses[200])
	f.load = append(f.load, int(v.Load.Milliseconds()))
	return nil
}

// addVisits adds table, plot and claims.
func addVisits(result *report.Result, chosen []scenario, measured map[string]map[string]*figures) {
	table := report.Table{
		Title: "Medians of a visit; least and most where they differ. Connections are those with requests, handshakes are those of all. " +
			"An image stays broken where the browser gives up after another 421:",
		Columns: []string{"served with", "browser", "connections", "handshakes", "421s", "broken images", "load, ms"},
	}
	plot := report.Plot{Name: "coalescing", Title: "Connections and 421s per browser and scenario", Y: "count", Bars: true,
		Series: []report.Series{{Name: "connections"}, {Name: "421s"}}}
	for n, s := range chosen {
		for _, name := range []string{browser.Firefox.Name, browser.Chromium.Name} {
			f := measured[name][s.name]
			table.Rows = append(table.Rows, []string{s.name, name, report.Range(f.connections), report.Range(f.handshakes), report.Range(f.refusals), report.Range(f.broken), report.Range(f.load)})
			x := float64(len(plot.Labels))
			plot.Labels = append(plot.Labels, fmt.Sprintf("%s %d", name[:2], n+1))
			plot.Series[0].Points = append(plot.Series[0].Points, [2]float64{x, float64(report.Median(f.connections))})
			plot.Series[1].Points = append(plot.Series[1].Points, [2]float64{x, float64(report.Median(f.refusals))})
		}
		table.Rows[len(table.Rows)-2][0] = fmt.Sprintf("%d. %s", n+1, s.name)
		table.Rows[len(table.Rows)-1][0] = ""
	}
	plot.X = "browser (Firefox, Chromium) and row of the table"
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, plot)

	firefox, chromium := measured[browser.Firefox.Name], measured[browser.Chromium.Name]
	least := func(f *figures) float64 { return float64(slices.Min(f.refusals)) }
	result.AtLeast("coalescing/421s-without-origin", "exact SNI matching without ORIGIN frames: 421s of a visit with Firefox, the least", least(firefox[exact]), 1)
	result.AtMost("coalescing/421s-with-origin", "exact SNI matching with ORIGIN frames: 421s of a visit with Firefox, the most", float64(slices.Max(firefox[exactFrames].refusals)), 0)
	result.AtMost("coalescing/connections-with-origin", "exact SNI matching with ORIGIN frames: connections with Firefox, the most", float64(slices.Max(firefox[exactFrames].connections)), float64(len(hosts)))
	result.AtLeast("coalescing/chromium", "exact SNI matching: 421s of a visit with Chromium, which asks again by itself, the least", least(chromium[exact]), 1)
	result.AtMost("coalescing/broken", "with frames, or with Chromium: broken images, the most", float64(max(slices.Max(firefox[exactFrames].broken), slices.Max(chromium[exact].broken))), 0)
	if firefox[openPage] == nil {
		return
	}
	result.AtMost("coalescing/no-gate", "`scope certificate` and ORIGIN frames: connections with Firefox, the most, less those without a gate, the least",
		float64(slices.Max(firefox[coveredFrames].connections)-slices.Min(firefox[openPage].connections)), 0)
	result.AtMost("coalescing/handshakes", "`scope certificate` and ORIGIN frames: TLS handshakes with Firefox (median), of those without frames",
		float64(report.Median(firefox[coveredFrames].handshakes))/float64(report.Median(firefox[covered].handshakes)), 0.5)
	result.AtMost("coalescing/addresses", "`scope certificate` and ORIGIN frames, an address for each host: connections with Firefox, the most", float64(slices.Max(firefox[apartFrames].connections)), 1)
}
