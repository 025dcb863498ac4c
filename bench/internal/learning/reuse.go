package learning

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/bench/internal/delay"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// meanGap is that of the requests to one upstream, of its timeout.
const meanGap = 0.75

// shortIdle is the idle time that stock is given to be safe, of the timeout.
const shortIdle = 0.35

const reuseText = `**Reuse.** POSTs to %d upstreams of each kind: addresses of a proxy that delays by %v each way, which lead to one
server. They come at random times (Poisson), on average after %.2[3]f of the timeout, which is %[4]v, for %[5]v. All
transports get the same arrivals, at the same time. ` + "`upstreampool`" + ` has no configuration and has learned the timeout before. The oracle knows it
exactly: simulated with the times of the requests of ` + "`upstreampool`" + `, it takes the youngest connection that has
been idle for less than that.`

// A reuser is one transport in front of its upstreams.
type reuser struct {
	name     string
	protocol string
	settings map[string]any

	rt     http.RoundTripper
	way    *delay.Proxy
	opened int
	failed atomic.Int64
	mu     sync.Mutex
	spans  [][]span // of each upstream
}

// A load is what reusers get.
type load struct {
	kind      servers.Kind
	pools     int
	keepAlive time.Duration
	delay     time.Duration // each way
	last      time.Duration // how long it lasts
	reusers   []*reuser
}

func reuse(ctx caddy.Context, o report.Options, r *report.Result) error {
	what := load{pools: 128, keepAlive: 4 * time.Second, delay: 5 * time.Millisecond, last: 2 * time.Minute}
	limit := 1.1
	if o.Quick {
		what = load{pools: 64, keepAlive: 2 * time.Second, last: 20 * time.Second}
		limit = 1.2 // by chance: there are few requests
	}
	r.Text = fmt.Sprintf(reuseText, what.pools, what.delay, meanGap, what.keepAlive, what.last)
	table := report.Table{
		Title:   "Connections opened:",
		Columns: []string{"upstream", "transport", "requests", "opened", "opened / oracle", "requests per connection", "failed"},
	}
	kinds := []servers.Kind{servers.Go, servers.GoH2}
	loads := make([]load, len(kinds))
	errs := make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, kind := range kinds {
		loads[i] = what
		loads[i].kind = kind
		wg.Go(func() {
			fmt.Fprintf(o.Progress, "reuse: %s\n", kind.Name)
			errs[i] = loads[i].run(ctx)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, l := range loads {
		best, requests := 0, 0
		for _, spans := range l.reusers[0].spans {
			best += oracle(spans, l.keepAlive, l.kind.Protocol == "h2")
			requests += len(spans)
		}
		row := func(name string, opened int, failed string) {
			table.Rows = append(table.Rows, []string{l.kind.Name, name, fmt.Sprint(requests), fmt.Sprint(opened),
				fmt.Sprintf("%.3f", float64(opened)/float64(best)), fmt.Sprintf("%.2f", float64(requests)/float64(opened)), failed})
		}
		row("oracle", best, "")
		for _, u := range l.reusers {
			row(u.name, u.opened, fmt.Sprint(u.failed.Load()))
		}
		r.AtMost("learning/reuse-"+l.kind.Name, l.kind.Name+": connections that `upstreampool` opens, of those of an oracle", float64(l.reusers[0].opened)/float64(best), limit)
		r.None("learning/reuse-failed-"+l.kind.Name, l.kind.Name+": failed POSTs of `upstreampool`", int(l.reusers[0].failed.Load()), requests).With("transport http", l.reusers[1].failed.Load())
	}
	r.Tables = []report.Table{table}
	return nil
}

func (l *load) run(ctx caddy.Context) error {
	dir, err := os.MkdirTemp("", "connreuse-reuse-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := servers.Start(dir, l.kind, l.keepAlive)
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop(false) }()
	short := time.Duration(shortIdle * float64(l.keepAlive))
	l.reusers = []*reuser{
		{name: "`upstreampool`", protocol: ours, settings: server.Transport()},
		{name: "`transport http`", protocol: stock, settings: server.Transport()},
		{name: fmt.Sprintf("`transport http`, `keepalive %v`", short), protocol: stock, settings: server.Transport()},
	}
	l.reusers[2].settings["keep_alive"] = map[string]any{"idle_timeout": short.String()}
	for _, u := range l.reusers {
		if u.rt, err = newTransport(ctx, u.protocol, u.settings); err != nil {
			return err
		}
		if u.way, err = delay.Start(l.pools, server.Addr, l.delay); err != nil {
			return err
		}
		defer u.way.Close()
	}
	if err := l.learn(ctx, l.reusers[0]); err != nil {
		return err
	}
	// All begin without a connection.
	sidebyside.Sleep(ctx, l.keepAlive+time.Second)
	var wg sync.WaitGroup
	for _, u := range l.reusers {
		u.opened = -u.way.Accepted()
		u.failed.Store(0)
		u.spans = make([][]span, l.pools)
	}
	for i := range l.pools {
		arrivals := l.arrivals()
		for _, u := range l.reusers {
			wg.Go(func() { u.send(ctx, i, arrivals) })
		}
	}
	wg.Wait()
	for _, u := range l.reusers {
		u.opened += u.way.Accepted()
	}
	return ctx.Err()
}

// arrivals returns the times of requests to one upstream.
func (l *load) arrivals() (arrivals []time.Duration) {
	mean := time.Duration(meanGap * float64(l.keepAlive))
	for at := exponential(mean); at < l.last; at += exponential(mean) {
		arrivals = append(arrivals, at)
	}
	return arrivals
}

// send sends requests to the upstream i at their times, whether or not those
// before have been answered.
func (u *reuser) send(ctx context.Context, i int, arrivals []time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	scheme := "http://"
	if u.settings["tls"] != nil {
		scheme = "https://"
	}
	url := scheme + u.way.Addrs()[i] + "/"
	begin := time.Now()
	for _, at := range arrivals {
		sidebyside.Sleep(ctx, at-time.Since(begin))
		if ctx.Err() != nil {
			return
		}
		wg.Go(func() {
			start := time.Now()
			if err := send(ctx, u.rt, http.MethodPost, url, "a body"); err != nil {
				u.failed.Add(1)
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			if u.spans != nil {
				u.spans[i] = append(u.spans[i], span{start, time.Now()})
			}
		})
	}
}

// learn sends requests until the timeout of each upstream is known.
func (l *load) learn(ctx context.Context, u *reuser) error {
	ctx, cancel := context.WithTimeout(ctx, learnWithin)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	unknown := make(map[string]bool)
	for i, addr := range u.way.Addrs() {
		unknown[addr] = true
		wg.Go(func() {
			for ctx.Err() == nil {
				u.send(ctx, i, l.arrivals())
			}
		})
	}
	for ; len(unknown) > 0 && ctx.Err() == nil; sidebyside.Sleep(ctx, sampleEvery) {
		for _, s := range upstreampool.States() {
			if s.Source != idletime.SourceAssumed {
				delete(unknown, s.Upstream)
			}
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%d of %d upstreams of %s: the timeout is not known after %v", len(unknown), l.pools, l.kind.Name, learnWithin)
	}
	return nil
}
