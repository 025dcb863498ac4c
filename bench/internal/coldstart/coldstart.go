// Package coldstart measures the first time after a restart of Caddy: what it learned
// of an upstream's keep-alive timeout is remembered, or learned anew.
package coldstart

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
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

// The sides, by their names in tables.
const (
	on    = "upstreampool"
	off   = "`remember off`"
	stock = "transport http"
)

var sides = []string{on, off, stock}

// transports are those of the sides.
var transports = map[string]map[string]any{
	on:    {"protocol": "upstreampool"},
	off:   {"protocol": "upstreampool", "remember": false},
	stock: {"protocol": "http"},
}

const (
	closesAfter = 2 * time.Second
	distance    = 5 * time.Millisecond // each way
	learnWithin = 3 * time.Minute
)

// figures are those of one side.
type figures struct {
	sent, failed, opened int
	assumed              time.Duration // until the timeout of all upstreams was known
}

// A run is one Caddy in front of the upstreams of all sides.
type run struct {
	caddy        *sidebyside.Caddy
	admin, plain string
	ways         map[string]*delay.Proxy
	client       *http.Client
}

// Run lets Caddy learn, restarts it and sends requests.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	upstreams, last := 3, time.Minute
	if o.Quick {
		upstreams, last = 1, 8*time.Second
	}
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	server, err := servers.Start(dir, servers.Go, closesAfter)
	if err != nil {
		return nil, err
	}
	defer func() { _ = server.Stop(false) }()
	r := &run{ways: make(map[string]*delay.Proxy), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	defer r.client.CloseIdleConnections()
	for _, side := range sides {
		if r.ways[side], err = delay.Start(upstreams, server.Addr, distance); err != nil {
			return nil, err
		}
		defer r.ways[side].Close()
	}
	if err := r.start(); err != nil {
		return nil, err
	}
	defer func() { r.caddy.Stop() }()
	if err := r.learn(ctx, upstreams); err != nil {
		return nil, err
	}
	fmt.Fprintln(o.Progress, "coldstart: learned, restarting")
	if err := r.caddy.Restart(); err != nil {
		return nil, err
	}
	if err := r.caddy.Listens(r.plain); err != nil {
		return nil, err
	}
	found, err := r.measure(ctx, last)
	if err != nil {
		return nil, err
	}
	return result(found, upstreams, last), nil
}

func result(found map[string]*figures, upstreams int, last time.Duration) *report.Result {
	r := &report.Result{
		Title: "After a restart",
		Text: fmt.Sprintf("Caddy has learned that %d upstreams (Go, %v each way) close idle connections after %v, and is restarted. From then on, POSTs are sent to "+
			"each of them for %v, with pauses from 0.3 s to just above the timeout; all sides get theirs at the same time.", upstreams, distance, closesAfter, last),
		Tables: []report.Table{{Columns: []string{"transport", "POSTs", "failed", "connections per POST", "s until the timeout is known"}}},
	}
	for _, side := range sides {
		f := found[side]
		known := "-"
		if side != stock {
			known = fmt.Sprintf("%.1f", f.assumed.Seconds())
		}
		r.Tables[0].Rows = append(r.Tables[0].Rows, []string{side, fmt.Sprint(f.sent), fmt.Sprint(f.failed), fmt.Sprintf("%.3f", f.each()), known})
	}
	r.None("coldstart/failed", "POSTs of `upstreampool` that fail after a restart", found[on].failed, found[on].sent).With("transport http", found[stock].failed)
	r.AtMost("coldstart/known", "s after a restart until `upstreampool` knows the timeout again", found[on].assumed.Seconds(), 1).With(off, found[off].assumed.Seconds())
	r.AtMost("coldstart/connections", "connections per POST after a restart, of those with `remember off`", found[on].each()/found[off].each(), 1)
	r.AtLeast("coldstart/control", "control: s until the timeout is known with `remember off`", found[off].assumed.Seconds(), 2)
	return r
}

func (f *figures) each() float64 { return float64(f.opened) / float64(max(1, f.sent)) }

// start starts Caddy, whose admin API tells what is known.
func (r *run) start() error {
	addrs := make([]string, 2)
	for i := range addrs {
		addr, err := programs.Address()
		if err != nil {
			return err
		}
		addrs[i] = addr
	}
	r.admin, r.plain = addrs[0], addrs[1]
	var routes []any
	for s, side := range sides {
		for i, addr := range r.ways[side].Addrs() {
			routes = append(routes, map[string]any{
				"match": []any{map[string]any{"path": []string{path(s, i)}}},
				"handle": []any{map[string]any{
					"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": addr}}, "transport": transports[side],
				}},
			})
		}
	}
	var err error
	r.caddy, err = sidebyside.StartCaddy(map[string]any{
		"admin":   map[string]any{"listen": r.admin},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "PANIC"}}},
	}, map[string]any{"plain": map[string]any{
		"listen": []string{r.plain}, "protocols": []string{"h1"}, "automatic_https": map[string]any{"disable": true},
		"routes": []any{sidebyside.Site(routes, sidebyside.Host)},
	}})
	if err == nil {
		err = r.caddy.Listens(r.plain)
	}
	return err
}

func path(side, upstream int) string { return fmt.Sprintf("/%d/%d", side, upstream) }

// learn sends requests to the side that remembers until all it learned is stored.
func (r *run) learn(ctx context.Context, upstreams int) error {
	ctx, cancel := context.WithTimeout(ctx, learnWithin)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	for i := range upstreams {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = r.post(ctx, path(0, i)) // what fails does not matter yet
				sidebyside.Sleep(ctx, closesAfter+rand.N(time.Second)-500*time.Millisecond)
			}
		})
	}
	defer cancel()
	for ; ctx.Err() == nil; sidebyside.Sleep(ctx, 200*time.Millisecond) {
		stored, err := filepath.Glob(filepath.Join(r.caddy.Folder(), "connreuse", "upstreampool", "*", "*"))
		if err != nil || len(stored) >= upstreams {
			return err
		}
	}
	return fmt.Errorf("what was learned is not stored: %w", ctx.Err())
}

var known = regexp.MustCompile(`(?m)^caddy_upstreampool_keep_alive_seconds\{protocol="[^"]*",source="([^"]*)",upstream="([^"]*)"\}`)

// measure sends requests to all upstreams of all sides.
func (r *run) measure(ctx context.Context, last time.Duration) (map[string]*figures, error) {
	ctx, cancel := context.WithTimeout(ctx, last)
	defer cancel()
	found := make(map[string]*figures)
	var mu sync.Mutex
	var all sync.WaitGroup
	begin := time.Now()
	for s, side := range sides {
		f := &figures{opened: -r.ways[side].Accepted(), assumed: last}
		found[side] = f
		for i := range r.ways[side].Addrs() {
			random := rand.New(rand.NewPCG(1, uint64(i))) // the same for all sides
			all.Go(func() {
				for ctx.Err() == nil {
					err := r.post(context.WithoutCancel(ctx), path(s, i))
					mu.Lock()
					f.sent++
					if err != nil {
						f.failed++
					}
					mu.Unlock()
					sidebyside.Sleep(ctx, 300*time.Millisecond+time.Duration(random.Int64N(int64(closesAfter-200*time.Millisecond))))
				}
			})
		}
	}
	for ctx.Err() == nil {
		sidebyside.Sleep(ctx, 100*time.Millisecond)
		sources, err := r.sources()
		if err != nil {
			return nil, err
		}
		for _, side := range sides {
			ready := true
			for _, addr := range r.ways[side].Addrs() {
				ready = ready && sources[addr] != "" && sources[addr] != "assumed"
			}
			if ready {
				found[side].assumed = min(found[side].assumed, time.Since(begin))
			}
		}
	}
	all.Wait()
	for _, side := range sides {
		found[side].opened += r.ways[side].Accepted()
	}
	return found, r.caddy.Ended()
}

// sources are those of the timeouts, by upstream.
func (r *run) sources() (map[string]string, error) {
	resp, err := r.client.Get("http://" + r.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	sources := make(map[string]string)
	for _, match := range known.FindAllStringSubmatch(string(text), -1) {
		sources[match[2]] = match[1]
	}
	return sources, err
}

func (r *run) post(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.plain+path, bytes.NewReader([]byte("x")))
	if err != nil {
		return err
	}
	req.Host = sidebyside.Host
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && !strings.HasPrefix(string(text), "ok") {
		err = fmt.Errorf("%s", resp.Status)
	}
	return err
}
