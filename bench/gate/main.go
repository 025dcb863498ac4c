// Command gate measures what misdirected costs: throughput against a handler
// that only calls the next one, and lookups among many sites.
//
//	go run ./bench/gate [-rounds 30] [-requests 20000]
//
// It needs h2load (package nghttp2-client), starts one Caddy with three servers
// that differ in that handler alone, and loads them in turn, in an order that
// rotates from round to round. Many short rounds give better ratios on a busy
// machine than few long ones. It fails when a ratio misses its limit.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-connreuse/connreuse"
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
	if len(os.Args) > 1 && os.Args[1] == "run" { // as Caddy, see below
		caddycmd.Main()
		return
	}
	rounds := flag.Int("rounds", 30, "rounds; the median counts")
	requests := flag.Int("requests", 20_000, "requests of one load")
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

	version, _ := caddy.Version()
	fmt.Printf("%s, %s/%s, %d cores, Caddy %s\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), version)
	perName, random, err := lookups(rounds)
	if err != nil {
		return 0, err
	}
	fmt.Printf("| lookup of site and TLS policy | 10 sites | 100 000 sites | ratio | limit |\n|---|---|---|---|---|\n")
	ratio := perName[1] / perName[0]
	fmt.Printf("| the same 10 names | %.0f ns | %.0f ns | %.2f | at most %.1f: %s |\n", perName[0], perName[1], ratio, mostLookup, verdict(ratio <= mostLookup))
	fmt.Printf("| random names | %.0f ns | %.0f ns | %.2f | |\n\n", random[0], random[1], random[1]/random[0])

	fmt.Printf("| requests/s, median of %d rounds of %d requests | bench_next | misdirected | no handler | misdirected / bench_next | limit | CPU time of Caddy for a request, misdirected / bench_next |\n|---|---|---|---|---|---|---|\n", rounds, requests)
	err = withCaddy(func(pid int, ports map[string]string) error {
		for _, protocol := range []string{"h2", "h1"} {
			rates := make(map[string][]float64)
			cpu := make(map[string]float64)
			var ratios, cpuRatios []float64
			order := []string{"bench_next", "misdirected", "none"}
			for range rounds {
				order = append(order[1:], order[0])
				for _, handler := range order {
					before, err := cpuTime(pid)
					if err != nil {
						return err
					}
					rate, err := load(protocol, ports[handler], requests)
					if err != nil {
						return err
					}
					after, err := cpuTime(pid)
					if err != nil {
						return err
					}
					rates[handler] = append(rates[handler], rate)
					cpu[handler] = float64(after - before)
				}
				n := len(ratios)
				ratios = append(ratios, rates["misdirected"][n]/rates["bench_next"][n])
				cpuRatios = append(cpuRatios, cpu["misdirected"]/cpu["bench_next"])
			}
			ratio := median(ratios)
			fmt.Printf("| %s | %.0f | %.0f | %.0f | %.3f (%.3f to %.3f) | at least %.2f: %s | %.3f (%.3f to %.3f) |\n", protocol,
				median(rates["bench_next"]), median(rates["misdirected"]), median(rates["none"]),
				ratio, slices.Min(ratios), slices.Max(ratios), leastThroughput, verdict(ratio >= leastThroughput),
				median(cpuRatios), slices.Min(cpuRatios), slices.Max(cpuRatios))
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
		hot[i], random[i] = median(hots[i]), median(randoms[i])
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

// withCaddy runs this program as Caddy, with one server for each handler, and
// calls f with its process and their ports.
func withCaddy(f func(pid int, ports map[string]string) error) error {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ports := make(map[string]string)
	servers := make(map[string]any)
	for _, handler := range []string{"bench_next", "misdirected", "none"} {
		if ports[handler], err = freePort(); err != nil {
			return err
		}
		handlers := []any{map[string]any{"handler": handler}, map[string]any{"handler": "static_response", "body": "ok"}}
		if handler == "none" {
			handlers = handlers[1:]
		}
		servers[handler] = map[string]any{
			"listen":          []string{"127.0.0.1:" + ports[handler]},
			"protocols":       []string{"h1", "h2"},
			"automatic_https": map[string]any{"disable_redirects": true},
			"routes":          []any{map[string]any{"match": []any{map[string]any{"host": []string{"a.bench.test"}}}, "handle": handlers, "terminal": true}},
		}
	}
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"storage": map[string]any{"module": "file_system", "root": dir},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps": map[string]any{
			"http": map[string]any{"servers": servers},
			"tls":  map[string]any{"automation": map[string]any{"policies": []any{map[string]any{"issuers": []any{map[string]any{"module": "internal"}}}}}},
			"pki":  map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}},
		},
	})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "caddy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "run", "--config", file)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}()
	for _, port := range ports {
		for try := 0; ; try++ {
			if _, err := load("h2", port, 1000); err == nil {
				break
			} else if try == 10 {
				return fmt.Errorf("waiting for Caddy: %w", err)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	return f(cmd.Process.Pid, ports)
}

var rate = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)

// cpuTime returns the CPU time a process has used, in clock ticks (proc_pid_stat(5)).
func cpuTime(pid int) (ticks int, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return user + system, err
}

// load returns the requests per second of h2load against a server.
func load(protocol, port string, requests int) (float64, error) {
	args := []string{"-n", strconv.Itoa(requests), "-c", "16", "-m", "8", "-t", "1", "--connect-to", "127.0.0.1:" + port}
	if protocol == "h1" {
		args = append(args, "--h1", "-m", "1", "-c", "32")
	}
	out, err := exec.Command("h2load", append(args, "https://a.bench.test/")...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("h2load (package nghttp2-client): %w: %s", err, out)
	}
	match := rate.FindSubmatch(out)
	if match == nil || !strings.Contains(string(out), fmt.Sprintf("%d 2xx", requests)) {
		return 0, fmt.Errorf("h2load: not all requests were answered: %s", out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
