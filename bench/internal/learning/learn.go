package learning

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

const (
	// meanBurst is the mean time between bursts of up to maxBurst requests.
	meanBurst = 2500 * time.Millisecond
	maxBurst  = 4

	learnWithin = 3 * time.Minute
	sampleEvery = 100 * time.Millisecond
)

const learningText = `**Learning.** A transport ` + "`upstreampool`" + ` without any setting but what TLS or h2c needs sends bursts of 1 to %d requests at
random times (Poisson, %v on average) to a real server. First the server closes idle connections after %v (4 s are
assumed while nothing is known). Then it is restarted twice with the same timeout, gracefully and by SIGKILL, and then with another
timeout, so that it closes after %v. A timeout counts as found when it is the announced one, or within 10 %% or 300 ms of when the server really
closes. (That a timeout that has become longer is found, by a sensor every 10 minutes, is a unit test.)`

// A lesson is one server, and what is known about it as time goes by.
type lesson struct {
	server *servers.Server
	rt     http.RoundTripper
	start  time.Time
	plot   report.Series

	first, last finding
	mistaken    []string // by restarts with the same timeout
	restarts    int
}

// A finding is a timeout that was found.
type finding struct {
	closes time.Duration // really
	state  upstreampool.PoolState
	after  time.Duration
	found  bool
}

func (f finding) String() string {
	if !f.found {
		return "no: " + f.state.Why
	}
	return fmt.Sprintf("%.2f s, %s", f.state.KeepAlive, f.state.Source)
}

func learning(ctx caddy.Context, o report.Options, r *report.Result) error {
	kinds, before, after := servers.Kinds, 6*time.Second, 2*time.Second
	if o.Quick {
		kinds = []servers.Kind{servers.Node, servers.GoH2, servers.Nginx}
		before = 3 * time.Second
	}
	r.Versions = programs.Servers(kinds)
	for _, kind := range kinds {
		if err := kind.Installed(); err != nil {
			return err
		}
	}
	lessons := make([]lesson, len(kinds))
	errs := make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, kind := range kinds {
		wg.Go(func() {
			fmt.Fprintf(o.Progress, "learning: %s\n", kind.Name)
			if err := lessons[i].run(ctx, kind, before, after); err != nil {
				errs[i] = fmt.Errorf("%s: %w", kind.Name, err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}

	r.Text = fmt.Sprintf(learningText, maxBurst, meanBurst, before, after)
	addLessons(r, lessons)
	return nil
}

// addLessons adds table, plot and claims.
func addLessons(r *report.Result, lessons []lesson) {
	table := report.Table{
		Title: "What `upstreampool` finds out about the keep-alive timeout:",
		Columns: []string{"upstream", "closes after", "found", "after (s)", "restarted, same timeout",
			"then closes after", "found", "after (s)"},
	}
	plot := report.Plot{Name: "learning", Title: "The idle limit while the timeout is learned, and changes", X: "time (s)", Y: "idle limit (s)"}
	wrong, lost, mistaken, restarts := 0, 0, 0, 0
	for i := range lessons {
		l := &lessons[i]
		if !l.first.found {
			wrong++
		}
		if !l.last.found {
			lost++
		}
		mistaken += len(l.mistaken)
		restarts += l.restarts
		unchanged := "nothing changed"
		if len(l.mistaken) > 0 {
			unchanged = fmt.Sprint(l.mistaken)
		}
		table.Rows = append(table.Rows, []string{l.server.Name, l.first.closes.String(), l.first.String(), fmt.Sprintf("%.1f", l.first.after.Seconds()),
			unchanged, l.last.closes.String(), l.last.String(), fmt.Sprintf("%.1f", l.last.after.Seconds())})
		plot.Series = append(plot.Series, l.plot)
	}
	r.None("learning/found", "upstreams whose timeout was not found", wrong, len(lessons))
	r.None("learning/followed", "upstreams whose shorter timeout was not found", lost, len(lessons))
	r.None("learning/restarts", "restarts that were taken for a timeout", mistaken, restarts)
	r.Tables, r.Plots = []report.Table{table}, []report.Plot{plot}
}

func (l *lesson) run(ctx caddy.Context, kind servers.Kind, before, after time.Duration) error {
	dir, err := os.MkdirTemp("", "connreuse-learning-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if l.server, err = servers.Start(dir, kind, before-kind.Late); err != nil {
		return err
	}
	defer func() { _ = l.server.Stop(false) }()
	if l.rt, err = newTransport(ctx, ours, l.server.Transport()); err != nil {
		return err
	}
	traffic, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	l.start, l.plot.Name = time.Now(), kind.Name
	wg.Go(func() { l.send(traffic) })

	if l.first, err = l.learn(ctx, func(s upstreampool.PoolState) bool { return s.Source != idletime.SourceAssumed }); err != nil || !l.first.found {
		return err
	}
	for _, graceful := range []bool{true, false} {
		l.restarts++
		if err := l.server.Restart(graceful, l.server.KeepAlive); err != nil {
			return err
		}
		state, err := l.watch(ctx, 2*before+time.Second, func(s upstreampool.PoolState) bool {
			return s.Source == idletime.SourceAssumed || !l.matches(s)
		})
		if err != nil {
			return err
		}
		if state != nil {
			l.mistaken = append(l.mistaken, state.Why)
		}
	}
	if err := l.server.Restart(true, after-kind.Late); err != nil {
		return err
	}
	l.last, err = l.learn(ctx, l.matches)
	return err
}

// send sends bursts of requests. They fail while the server is restarted.
func (l *lesson) send(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		for range 1 + rand.IntN(maxBurst) {
			wg.Go(func() { _ = send(ctx, l.rt, http.MethodGet, l.server.URL()+"/", "") })
		}
		sidebyside.Sleep(ctx, exponential(meanBurst))
	}
}

// matches tells whether the keep-alive value is the server's.
func (l *lesson) matches(s upstreampool.PoolState) bool {
	if s.Source == idletime.SourceAnnounced {
		return s.KeepAlive == l.server.Announced().Seconds()
	}
	closes := l.server.Closes()
	late := time.Duration(s.KeepAlive*float64(time.Second)) - closes
	tolerance := max(300*time.Millisecond, closes/10)
	return s.Source == idletime.SourceLearned && late >= -tolerance && late <= tolerance+l.server.Looks
}

// learn waits until want is content with what is known.
func (l *lesson) learn(ctx context.Context, want func(upstreampool.PoolState) bool) (finding, error) {
	start := time.Now()
	f := finding{closes: l.server.Closes()}
	state, err := l.watch(ctx, learnWithin, func(s upstreampool.PoolState) bool {
		f.state = s
		return want(s)
	})
	f.after = time.Since(start)
	f.found = state != nil && l.matches(*state)
	return f, err
}

// watch follows the state until it is as wanted, for so long; nil: it never was.
func (l *lesson) watch(ctx context.Context, d time.Duration, want func(upstreampool.PoolState) bool) (*upstreampool.PoolState, error) {
	for end := time.Now().Add(d); time.Now().Before(end); sidebyside.Sleep(ctx, sampleEvery) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, s := range upstreampool.States() {
			if s.Upstream != l.server.Addr {
				continue
			}
			l.draw(s.IdleLimit)
			if want(s) {
				return &s, nil
			}
		}
	}
	return nil, nil
}

// draw adds a step to the plot where the limit changed.
func (l *lesson) draw(limit float64) {
	now := time.Since(l.start).Seconds()
	if n := len(l.plot.Points); n > 0 {
		if last := l.plot.Points[n-1]; last[1] != limit {
			l.plot.Points = append(l.plot.Points, [2]float64{now, last[1]})
		} else if n > 1 && l.plot.Points[n-2][1] == limit {
			l.plot.Points[n-1][0] = now
			return
		}
	}
	l.plot.Points = append(l.plot.Points, [2]float64{now, limit})
}
