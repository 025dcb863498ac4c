// Package sidebyside runs one Caddy with servers that differ in one thing, and
// loads them in turn, so that whatever else the machine does hits all alike.
package sidebyside

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// Host is the name of the one site that all servers have.
const Host = "a.bench.test"

// Versions is what a result was measured with.
func Versions() string {
	version, _ := caddy.Version()
	return fmt.Sprintf("%s, %s/%s, %d cores, Caddy %s", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), version)
}

// QUIC is the version of what speaks HTTP/3, in Caddy and in clients of benchmarks.
func QUIC() string {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/quic-go/quic-go" {
				return "quic-go " + m.Version
			}
		}
	}
	return "quic-go"
}

// H2load is the version of the load generator.
func H2load() string {
	out, err := exec.Command("h2load", "--version").Output()
	if err != nil {
		return "h2load"
	}
	return strings.TrimSpace(string(out))
}

// A Result compares one server with another.
type Result struct {
	Rates map[string]float64 // median requests/s of each server
	Ratio report.Spread      // of requests/s
	CPU   report.Spread      // of Caddy's CPU time for a request
}

// Table is an empty table of results: rows are from [Result.Row].
func Table(what, with string) report.Table {
	return report.Table{
		Title:   "Requests/s, and the CPU time of Caddy for a request (median, least and most of all rounds):",
		Columns: []string{"load", with, what, what + " / " + with, "CPU time, " + what + " / " + with},
	}
}

// Row is the result as a row of a table.
func (r Result) Row(load, what, with string) []string {
	return []string{load, fmt.Sprintf("%.0f", r.Rates[with]), fmt.Sprintf("%.0f", r.Rates[what]), r.Ratio.String(), r.CPU.String()}
}

// A Bench is a running Caddy.
type Bench struct {
	pid   int
	ports map[string]string
	names []string
}

// Run starts Caddy with servers, by name: settings beyond those that all have. Among
// them are the handlers in front of the response, "handle", and the routes of the site
// before those, "routes". It calls f and ends Caddy.
func Run(servers map[string]map[string]any, f func(*Bench) error) error {
	b := &Bench{ports: make(map[string]string)}
	config := make(map[string]any)
	for name, settings := range servers {
		b.names = append(b.names, name)
		port, err := FreePort()
		if err != nil {
			return err
		}
		b.ports[name] = port
		server := map[string]any{
			"listen":                  []string{"127.0.0.1:" + b.ports[name]},
			"automatic_https":         map[string]any{"disable_redirects": true},
			"tls_connection_policies": []any{map[string]any{}},
		}
		maps.Copy(server, settings)
		delete(server, "handle")
		routes, _ := settings["routes"].([]any)
		handlers, _ := settings["handle"].([]any)
		handlers = append(slices.Clip(handlers), map[string]any{"handler": "static_response", "body": "ok"})
		server["routes"] = []any{Site(slices.Concat(routes, Routes(handlers...)), Host)}
		config[name] = server
	}
	slices.Sort(b.names)
	c, err := StartCaddy(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
	}, config)
	if err != nil {
		return err
	}
	defer c.Stop()
	b.pid = c.Pid()
	for name := range servers {
		for deadline := time.Now().Add(time.Minute); ; {
			if _, err := b.load(name, 100, "-c", "1"); err == nil {
				break
			} else if time.Now().After(deadline) {
				return fmt.Errorf("waiting for Caddy: %w", err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	return f(b)
}

// Figures are those of all servers, round by round.
type Figures struct{ rates, cpu map[string][]float64 }

// Compare compares a server with another one.
func (f Figures) Compare(what, with string) Result {
	return Result{
		Rates: map[string]float64{what: report.Median(f.rates[what]), with: report.Median(f.rates[with])},
		Ratio: ratios(f.rates[what], f.rates[with]),
		CPU:   ratios(f.cpu[what], f.cpu[with]),
	}
}

// A Pressure is what h2load puts on a server.
type Pressure struct {
	// WarmUp is how many requests come before and are not measured. A server rests
	// while the others are loaded, and its connections to upstreams may be closed then.
	WarmUp   int
	Requests int
	Flags    []string // h2load's
}

// Measure loads all servers in turn, in an order that rotates from round to round and
// turns around every other time.
func (b *Bench) Measure(ctx context.Context, rounds int, p Pressure) (Figures, error) {
	f := Figures{rates: make(map[string][]float64), cpu: make(map[string][]float64)}
	order := slices.Clone(b.names)
	for round := range rounds {
		if err := ctx.Err(); err != nil {
			return f, err
		}
		order = append(order[1:], order[0])
		if round%len(order) == 0 {
			slices.Reverse(order)
		}
		for _, name := range order {
			if p.WarmUp > 0 {
				if _, err := b.load(name, p.WarmUp, p.Flags...); err != nil {
					return f, err
				}
			}
			before, err := CPUTime(b.pid)
			if err != nil {
				return f, err
			}
			rate, err := b.load(name, p.Requests, p.Flags...)
			if err != nil {
				return f, err
			}
			after, err := CPUTime(b.pid)
			if err != nil {
				return f, err
			}
			f.rates[name] = append(f.rates[name], rate)
			f.cpu[name] = append(f.cpu[name], float64(after-before))
		}
	}
	return f, nil
}

// ratios are those of each round.
func ratios(what, with []float64) report.Spread {
	all := make([]float64, len(what))
	for i := range what {
		all[i] = what[i] / with[i]
	}
	return report.SpreadOf(all)
}

var rate = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)

// load returns the requests per second of h2load against a server.
func (b *Bench) load(name string, requests int, flags ...string) (float64, error) {
	return Load(b.Addr(name), requests, flags...)
}

// Addr is the address of a server.
func (b *Bench) Addr(name string) string { return "127.0.0.1:" + b.ports[name] }

// Load returns the requests per second of h2load, over TLS, for / of [Host] at an
// address.
func Load(addr string, requests int, flags ...string) (float64, error) {
	args := append([]string{"-n", strconv.Itoa(requests), "-t", "1", "--connect-to", addr}, flags...)
	out, err := exec.Command("h2load", append(args, "https://"+Host+"/")...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("h2load (package nghttp2-client): %w: %s", err, out)
	}
	match := rate.FindSubmatch(out)
	if match == nil || !strings.Contains(string(out), fmt.Sprintf("%d 2xx", requests)) {
		return 0, fmt.Errorf("h2load: not all requests were answered: %s", out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

// Sleep sleeps for d, or until ctx is done.
func Sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
