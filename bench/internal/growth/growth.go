// Package growth measures what more sites, handle blocks, policies, upstreams and
// made-up names cost: none of it may cost more than in proportion.
package growth

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// A cost is what Caddy takes until it has started and done what the dimension asks of
// it.
type cost struct {
	start  float64 // s, until the first answer
	cpu    float64 // s
	memory float64 // MiB, live
}

func (c cost) values() []float64 { return []float64{c.start, c.cpu, c.memory} }

// Limits of what ours may take at the largest size.
const (
	mostStart = 5   // s, until the first answer
	mostCPU   = 2.5 // of what stock takes
)

// floor is what differences of costs are not told apart from, for each value.
var floor = []float64{0.1, 0.1, 2}

// mostInUse is how many rounds there are at most where each item is asked for.
const mostInUse = 3

var units = []string{"start", "CPU", "memory"}

// A setting is what one Caddy is started with.
type setting struct {
	n    int    // how many of what grows
	with bool   // our modules
	addr string // of Caddy
	port string // of upstreams, at all addresses of loopback
}

// A dimension is one way to grow.
type dimension struct {
	name    string // in names of claims
	what    string
	servers func(s setting) map[string]any             // HTTP servers
	use     func(ctx context.Context, s setting) error // does what grows with use, if anything
	secure  bool                                       // upstreams have TLS
}

// Run starts Caddy again and again.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	sizes, rounds := []int{10, 1000, 2500, 10_000}, 5
	if o.Quick {
		sizes, rounds = []int{10, 250, 1000}, 1
	}
	largest, quarter := sizes[len(sizes)-1], sizes[len(sizes)-2]
	result := &report.Result{
		Title: "The cost of growth",
		Text: fmt.Sprintf("Caddy is started with more and more of one thing, guarded, with ORIGIN frames and `upstreampool`, and as stock without them. Shown are seconds "+
			"until the first answer, and seconds of CPU time and MiB of live memory after that. They are medians of rounds in turn: %d, or %d where each item is asked for. "+
			"Growth is what each item costs at %d, of what it costs at %d, beyond the cost of the smallest size: 1 is in proportion. Differences below %v s and %v MiB count as "+
			"these: what does not grow at all shows as much less than 1. Claims on growth are on ours, divided by stock's growth where that is above 1.",
			rounds, min(rounds, mostInUse), largest, quarter, floor[0], floor[len(floor)-1]),
	}
	table := report.Table{Title: "With our modules / stock:", Columns: []string{"of these"}}
	for _, n := range sizes {
		table.Columns = append(table.Columns, fmt.Sprintf("%d: start, s", n), "CPU, s", "MiB")
	}
	slopes := report.Table{Title: "Slopes, for 1000 more, with our modules / stock:", Columns: []string{"of these", "start, ms", "CPU, ms", "memory, MiB", "growth: start", "CPU", "memory"}}
	for _, d := range dimensions {
		found, err := d.measure(ctx, o, sizes, rounds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		row := []string{d.what}
		for i := range sizes {
			ours, stock := found[true][i].values(), found[false][i].values()
			for v := range units {
				row = append(row, fmt.Sprintf("%.2f / %.2f", ours[v], stock[v]))
			}
		}
		table.Rows = append(table.Rows, row)
		slopes.Rows = append(slopes.Rows, d.claims(result, o, sizes, found))
	}
	result.Tables = []report.Table{slopes, table}
	return result, nil
}

// claims adds those of a dimension and returns its row of slopes.
func (d *dimension) claims(r *report.Result, o report.Options, sizes []int, found map[bool][]cost) []string {
	last := len(sizes) - 1
	row := []string{d.what}
	var growths []string
	for v, unit := range units {
		grown := make(map[bool]float64)
		slope := make(map[bool]float64)
		for _, with := range []bool{true, false} {
			costs := found[with]
			above := func(i int) float64 { return math.Max(floor[v], costs[i].values()[v]-costs[0].values()[v]) }
			scale := float64(sizes[last]-sizes[0]) / float64(sizes[last-1]-sizes[0])
			grown[with] = above(last) / above(last-1) / scale
			slope[with] = 1000 * (costs[last].values()[v] - costs[0].values()[v]) / float64(sizes[last]-sizes[0])
		}
		factor := 1.0
		if unit != "memory" {
			factor = 1000 // ms
		}
		row = append(row, fmt.Sprintf("%.1f / %.1f", factor*slope[true], factor*slope[false]))
		growths = append(growths, fmt.Sprintf("%.2f / %.2f", grown[true], grown[false]))
		r.AtMost("growth/"+d.name+"-"+unit, fmt.Sprintf("%s: growth of %s", d.what, unit), grown[true]/math.Max(1, grown[false]), o.LooseMost(1.5))
	}
	most, than := found[true][last], found[false][last]
	r.AtMost("growth/"+d.name+"-seconds", fmt.Sprintf("%s: s until the first answer, with %d", d.what, sizes[last]), most.start, mostStart).With("stock", than.start)
	r.AtMost("growth/"+d.name+"-stock", fmt.Sprintf("%s: CPU time of %d, of that of stock", d.what, sizes[last]), most.cpu/than.cpu, o.LooseMost(mostCPU))
	return append(row, growths...)
}

// measure returns the median costs by size, with our modules and without.
func (d *dimension) measure(ctx context.Context, o report.Options, sizes []int, rounds int) (map[bool][]cost, error) {
	fmt.Fprintf(o.Progress, "growth: %s\n", d.name)
	if d.use != nil {
		rounds = min(rounds, mostInUse)
	}
	found := make(map[bool][]cost)
	for _, n := range sizes {
		all := make(map[bool][]cost)
		for range rounds {
			for _, with := range []bool{true, false} {
				c, err := d.once(ctx, n, with)
				if err != nil {
					return nil, err
				}
				all[with] = append(all[with], c)
			}
		}
		for with, costs := range all {
			var start, cpu, memory []float64
			for _, c := range costs {
				start, cpu, memory = append(start, c.start), append(cpu, c.cpu), append(memory, c.memory)
			}
			found[with] = append(found[with], cost{report.Median(start), report.Median(cpu), report.Median(memory)})
		}
	}
	return found, nil
}

// once starts Caddy with so many of them.
func (d *dimension) once(ctx context.Context, n int, with bool) (c cost, err error) {
	if err := ctx.Err(); err != nil {
		return c, err
	}
	at, stop, err := d.setting(n, with)
	if err != nil {
		return c, err
	}
	defer stop()
	admin, err := programs.Address()
	if err != nil {
		return c, err
	}
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return c, err
	}
	defer os.RemoveAll(dir)
	certificate, err := wildcard(dir)
	if err != nil {
		return c, err
	}
	begin := time.Now()
	caddy, err := sidebyside.StartCaddyWith(map[string]any{
		"admin":   map[string]any{"listen": admin},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "PANIC"}}},
	}, map[string]any{
		"http": map[string]any{"servers": d.servers(at)},
		"tls":  map[string]any{"certificates": map[string]any{"load_files": []any{map[string]any{"certificate": certificate, "key": certificate}}}},
	})
	if err != nil {
		return c, err
	}
	defer caddy.Stop()
	if err := caddy.Listens(at.addr); err != nil {
		return c, err
	}
	if err := first(ctx, at.addr); err != nil {
		return c, fmt.Errorf("the first request: %w", err)
	}
	c.start = time.Since(begin).Seconds()
	if d.use != nil {
		if err := d.use(ctx, at); err != nil {
			return c, err
		}
	}
	if err := c.read(admin, caddy.Pid()); err != nil {
		return c, err
	}
	return c, caddy.Ended()
}

// setting returns one, and starts its upstreams.
func (d *dimension) setting(n int, with bool) (s setting, stop func(), err error) {
	s = setting{n: n, with: with}
	if s.addr, err = programs.Address(); err != nil {
		return s, nil, err
	}
	l, err := fake.ListenAt("0.0.0.0:0", nil)
	if err != nil {
		return s, nil, err
	}
	s.port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	return s, l.Stop, l.Serve(d.secure, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, nil)
}

// read adds what a Caddy has used until now: CPU time before the collection of garbage
// that live memory takes.
func (c *cost) read(admin string, pid int) error {
	ticks, err := sidebyside.CPUTime(pid)
	if err != nil {
		return err
	}
	usage, err := sidebyside.ReadUsage(admin, true)
	c.cpu, c.memory = float64(ticks)/100, usage.Memory/(1<<20) // a tick is 10 ms
	return err
}
