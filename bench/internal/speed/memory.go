package speed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// An upstream answers a request with one byte at once, and with the end when it is
// told to. It announces that it keeps idle connections for longer than anything is
// measured.
type upstream struct {
	*fake.Listener
	release chan struct{} // closed: all may end
}

func newUpstream() (*upstream, error) {
	l, err := fake.Listen(nil)
	if err != nil {
		return nil, err
	}
	u := &upstream{l, make(chan struct{})}
	return u, l.Serve(false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Keep-Alive", "timeout=600")
		_, _ = io.WriteString(w, "x")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-u.release:
		case <-r.Context().Done():
		}
	}, nil)
}

// A crowd is so many requests that are open at a time, and how often that is measured.
type crowd struct{ size, rounds int }

// perConnection is how many of them share a connection of a client, at most: fewer than
// Caddy lets streams be on one.
const perConnection = 200

// A footprint is bytes of memory for streaming requests, with their connections, and
// then for connections that have become idle.
type footprint struct {
	streaming, idle   float64
	requests, waiting float64 // how many
}

// each is a footprint for each of them.
func (f footprint) each() footprint {
	return footprint{streaming: f.streaming / f.requests, idle: f.idle / f.waiting}
}

// further is that for each of those that f has and g has not.
func (f footprint) further(g footprint) footprint {
	return footprint{f.streaming - g.streaming, f.idle - g.idle, f.requests - g.requests, f.waiting - g.waiting}.each()
}

// footprint holds requests open, and then their connections. They lead to an upstream of
// their own: one that closed its connections between rounds would teach the pool that it
// closes what is idle.
func (s *side) footprint(ctx context.Context, admin string, size int) (f footprint, err error) {
	count := max(connections, size/perConnection)
	l := newLoader(s.slow, "h2", count)
	defer l.end()
	if err := l.connect(ctx, count); err != nil {
		return f, err
	}
	u, err := newUpstream()
	if err != nil {
		return f, err
	}
	defer u.Stop()
	l.upstream = u.Addr().String()
	before, err := settled(ctx, admin)
	if err != nil {
		return f, err
	}
	bodies, err := l.open(ctx, size)
	streaming, err2 := sidebyside.ReadUsage(admin, true)
	close(u.release)
	for _, body := range bodies {
		if body != nil {
			_, _ = io.Copy(io.Discard, body)
			_ = body.Close()
		}
	}
	idle, err3 := settled(ctx, admin)
	f = footprint{streaming.Memory - before.Memory, idle.Memory - before.Memory, float64(size), float64(u.Open.Load())}
	if f.waiting == 0 {
		err = errors.Join(err, errors.New("no connection became idle"))
	}
	return f, errors.Join(err, err2, err3)
}

// connect sends a request on each connection, so that those of the clients do not count.
func (l *loader) connect(ctx context.Context, connections int) error {
	u, err := newUpstream()
	if err != nil {
		return err
	}
	defer u.Stop()
	close(u.release)
	l.upstream = u.Addr().String()
	return l.warm(ctx, connections)
}

// settled returns what Caddy uses once that falls no more: what ends upstream ends in
// Caddy a moment later.
func settled(ctx context.Context, admin string) (sidebyside.Usage, error) {
	last, err := sidebyside.ReadUsage(admin, true)
	for err == nil && ctx.Err() == nil {
		sidebyside.Sleep(ctx, 100*time.Millisecond)
		var next sidebyside.Usage
		if next, err = sidebyside.ReadUsage(admin, true); next.Memory > 0.99*last.Memory {
			return next, err
		}
		last = next
	}
	return last, errors.Join(err, ctx.Err())
}

// measureMemory adds the table and the claims on memory.
func measureMemory(ctx context.Context, r *report.Result, sides []*side, admin string, crowds [2]crowd) error {
	var found [len(crowds)]map[string]footprint
	for i, c := range crowds {
		var err error
		if found[i], err = medians(ctx, sides, admin, c); err != nil {
			return fmt.Errorf("%d requests at a time: %w", c.size, err)
		}
	}
	small, large := crowds[0].size, crowds[1].size
	table := report.Table{
		Title: fmt.Sprintf("Memory of Caddy (live objects and stacks), KiB, for each of %d and of %d, and for each further one in between; medians:", small, large),
		Columns: []string{"transport",
			fmt.Sprintf("streaming request, with its connection: of %d", small), fmt.Sprintf("of %d", large), "further",
			fmt.Sprintf("idle connection: of %d", small), fmt.Sprintf("of %d", large), "further"},
	}
	few, further := make(map[string]footprint), make(map[string]footprint)
	for _, s := range sides {
		a, b := found[0][s.name], found[1][s.name]
		few[s.name], further[s.name] = a.each(), b.further(a)
		row := []string{s.name}
		for _, f := range []footprint{a.each(), b.each(), b.further(a)} {
			row = append(row, one(f.streaming/1024), one(f.idle/1024))
		}
		table.Rows = append(table.Rows, []string{row[0], row[1], row[3], row[5], row[2], row[4], row[6]})
	}
	r.Tables = append(r.Tables, table)
	addMemoryClaims(r, few, further, large)
	return nil
}

// medians are the footprints of all sides, by name.
func medians(ctx context.Context, sides []*side, admin string, c crowd) (map[string]footprint, error) {
	found := make(map[string][]footprint)
	for range c.rounds {
		for _, s := range sides {
			f, err := s.footprint(ctx, admin, c.size)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			found[s.name] = append(found[s.name], f)
		}
	}
	of := func(all []footprint, value func(footprint) float64) float64 {
		var values []float64
		for _, f := range all {
			values = append(values, value(f))
		}
		return report.Median(values)
	}
	middle := make(map[string]footprint)
	for name, all := range found {
		middle[name] = footprint{
			of(all, func(f footprint) float64 { return f.streaming }), of(all, func(f footprint) float64 { return f.idle }),
			of(all, func(f footprint) float64 { return f.requests }), of(all, func(f footprint) float64 { return f.waiting }),
		}
	}
	return middle, nil
}

// addMemoryClaims adds claims on what each takes of a few, and what each further one
// takes until there are many.
func addMemoryClaims(r *report.Result, few, further map[string]footprint, many int) {
	more := func(by map[string]footprint, name, than string) footprint {
		return footprint{streaming: (by[name].streaming - by[than].streaming) / 1024, idle: (by[name].idle - by[than].idle) / 1024}
	}
	ofFew, ofFurther := more(few, ours, stock), more(further, ours, stock)
	r.AtMost("speed/streaming", "KiB that a streaming request takes more with `upstreampool` than with "+stock, ofFew.streaming, 8)
	r.AtMost("speed/streaming-gated", "KiB that a streaming request takes more with "+gated+", which grows its stack early, than with `upstreampool` alone",
		more(few, gated, ours).streaming, 2)
	r.AtMost("speed/idle", "KiB that an idle connection takes more with `upstreampool` than with "+stock, ofFew.idle, 4)
	r.AtMost("speed/streaming-slope", fmt.Sprintf("KiB that each further streaming request takes more with `upstreampool` than with %s, up to %d", stock, many), ofFurther.streaming, 8)
	r.AtMost("speed/idle-slope", fmt.Sprintf("KiB that each further idle connection takes more with `upstreampool` than with %s, up to %d", stock, many), ofFurther.idle, 4)
}
