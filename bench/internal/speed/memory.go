package speed

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// held is how many requests are open at a time while memory is measured.
const held = 1000

// An upstream answers a request with one byte at once, and with the end when it is
// told to.
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
		_, _ = io.WriteString(w, "x")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-u.release:
		case <-r.Context().Done():
		}
	}, nil)
}

// A footprint is bytes of memory for each streaming request, with its connection, and
// then for each connection that has become idle.
type footprint struct{ streaming, idle float64 }

// footprint holds requests open, and then their connections.
func (s *side) footprint(ctx context.Context, admin string) (f footprint, err error) {
	u := s.upstream
	l := newLoader(s.slow, "h2")
	defer l.end()
	// A request for each connection, so that those of the clients do not count.
	close(u.release)
	if err := l.warm(ctx, connections); err != nil {
		return f, err
	}
	u.release = make(chan struct{})
	u.CloseConns()
	time.Sleep(100 * time.Millisecond) // until the proxy has seen it
	before, err := sidebyside.ReadUsage(admin, true)
	if err != nil {
		return f, err
	}
	bodies := make([]io.ReadCloser, held)
	errs := make([]error, held)
	var all sync.WaitGroup
	for i := range held {
		all.Go(func() {
			resp, err := l.ask(ctx, i)
			if errs[i] = err; err == nil {
				bodies[i] = resp.Body
				_, errs[i] = io.ReadFull(resp.Body, make([]byte, 1))
			}
		})
	}
	all.Wait()
	err = errors.Join(errs...)
	streaming, err2 := sidebyside.ReadUsage(admin, true)
	close(u.release)
	for _, body := range bodies {
		if body != nil {
			_, _ = io.Copy(io.Discard, body)
			_ = body.Close()
		}
	}
	time.Sleep(100 * time.Millisecond) // until the streams have ended in the proxy as well
	open := u.Open.Load()
	idle, err3 := sidebyside.ReadUsage(admin, true)
	f.streaming = (streaming.Memory - before.Memory) / held
	f.idle = (idle.Memory - before.Memory) / float64(max(1, open))
	u.release = make(chan struct{})
	u.CloseConns()
	return f, errors.Join(err, err2, err3)
}

// measureMemory adds the table and the claims on memory.
func measureMemory(ctx context.Context, r *report.Result, sides []*side, admin string, rounds int) error {
	found := make(map[string][]footprint)
	for range rounds {
		for _, s := range sides {
			f, err := s.footprint(ctx, admin)
			if err != nil {
				return err
			}
			found[s.name] = append(found[s.name], f)
		}
	}
	table := report.Table{Title: "Memory of Caddy (live objects and stacks), KiB, with 1000 of each; medians:", Columns: []string{"transport", "streaming request, with its connection", "idle connection"}}
	kib := make(map[string]footprint)
	for _, s := range sides {
		var streaming, idle []float64
		for _, f := range found[s.name] {
			streaming, idle = append(streaming, f.streaming/1024), append(idle, f.idle/1024)
		}
		kib[s.name] = footprint{report.Median(streaming), report.Median(idle)}
		table.Rows = append(table.Rows, []string{s.name, one(kib[s.name].streaming), one(kib[s.name].idle)})
	}
	r.Tables = append(r.Tables, table)
	r.AtMost("speed/streaming", "KiB that a streaming request takes more with `upstreampool` than with "+stock, kib[ours].streaming-kib[stock].streaming, 8)
	r.AtMost("speed/streaming-gated", "KiB that a streaming request takes more with "+gated+", which grows its stack early, than with `upstreampool` alone",
		kib[gated].streaming-kib[ours].streaming, 2)
	r.AtMost("speed/idle", "KiB that an idle connection takes more with `upstreampool` than with "+stock, kib[ours].idle-kib[stock].idle, 4)
	return nil
}
