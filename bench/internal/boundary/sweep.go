package boundary

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/delay"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// viaHTTP3 is a GET whose client speaks HTTP/3.
const viaHTTP3 = "GET from HTTP/3"

// once are the methods whose requests should be executed once.
var once = []string{http.MethodPost, http.MethodPut, http.MethodDelete}

// A plan is what a run measures.
type plan struct {
	kinds    []servers.Kind
	methods  []string
	delays   []time.Duration // each way
	pools    int             // for each kind, delay and side
	rounds   int             // requests of each method and pool, once K is known
	parallel int             // pairs of kind and delay at a time
}

const (
	closesAfter = 2 * time.Second        // of all upstreams
	below       = 50 * time.Millisecond  // the gaps start so far below,
	above       = 100 * time.Millisecond // and end so far above
	unknownFor  = time.Minute            // at most
	largestBody = 64 << 10

	mostTries     = 4  // at a kind and delay, while its server crashes
	mostExplained = 20 // failures of each kind and delay
)

// A cell is what is counted apart.
type cell struct {
	delay  time.Duration
	method string
	side   string
	known  bool
}

// A sample is a request.
type sample struct {
	gap    time.Duration // since the end of the response before it
	failed bool
}

// A failure is a failed request of ours.
type failure struct {
	cell
	sample
	began, ended     time.Time
	upstream, target string
	what             string // status or error
	log              []string
}

// A sweep is what was found with one kind of server.
type sweep struct {
	kind     servers.Kind
	samples  map[cell][]sample
	failures []failure // the first of ours
	twice    map[cell]int
	learned  []time.Duration // after which pools knew K
	unknown  int             // pools that never knew it
	late     []time.Duration // by how much gaps were longer than planned
}

func newSweep(kind servers.Kind) *sweep {
	return &sweep{kind: kind, samples: make(map[cell][]sample), twice: make(map[cell]int)}
}

// add adds what was found with another delay.
func (s *sweep) add(other *sweep) {
	maps.Copy(s.samples, other.samples)
	for c, n := range other.twice {
		s.twice[c] += n
	}
	s.failures = append(s.failures, other.failures...)
	s.learned = append(s.learned, other.learned...)
	s.unknown += other.unknown
	s.late = append(s.late, other.late...)
}

// A crash is the end of a server, which says nothing about those before it.
type crash struct{ error }

// run sweeps all methods at the same time.
func (pl plan) run(ctx context.Context, kind servers.Kind, delayed time.Duration) (*sweep, error) {
	dir, err := os.MkdirTemp("", "connreuse-boundary-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	server, err := servers.Start(dir, kind, closesAfter-kind.Late)
	if err != nil {
		return nil, err
	}
	defer func() { _ = server.Stop(false) }()
	p, err := startProxy(ctx, dir, server)
	if err != nil {
		return nil, err
	}
	defer p.stop()

	way, err := delay.Start(pl.pools, server.Addr, delayed)
	if err != nil {
		return nil, err
	}
	defer way.Close()
	r := &runner{plan: pl, proxy: p, delay: delayed, known: make(map[string]*atomic.Bool), sweep: newSweep(kind)}
	for _, addr := range way.Addrs() {
		r.known[addr] = new(atomic.Bool)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for addr := range r.known {
		for _, side := range sides {
			wg.Go(func() { r.work(ctx, addr, side) })
		}
	}
	if err := r.watch(ctx); err != nil {
		cancel(err)
	}
	guard(&wg, server, cancel)
	if err = context.Cause(ctx); err != nil {
		return nil, err
	}
	r.failures = r.failures[:min(len(r.failures), mostExplained)]
	if err := p.explain(r.failures); err != nil {
		return nil, err
	}
	return r.sweep, r.countTwice(server)
}

// guard waits for those who work, and cancels their work when the server ends.
func guard(working *sync.WaitGroup, server *servers.Server, cancel context.CancelCauseFunc) {
	done := make(chan struct{})
	go func() {
		working.Wait()
		close(done)
	}()
	for busy := true; busy; {
		select {
		case <-done:
			busy = false
		case <-time.After(time.Second):
		}
		if err := server.Ended(); err != nil {
			cancel(crash{err})
		}
	}
}

// A runner fills in a sweep.
type runner struct {
	plan
	proxy *proxy
	delay time.Duration           // each way
	known map[string]*atomic.Bool // upstreams whose K our side knows, or we no longer wait for it

	serial atomic.Int64
	mu     sync.Mutex
	*sweep
}

// watch finds out which pools know K, until all do.
func (r *runner) watch(ctx context.Context) error {
	start := time.Now()
	missing := len(r.known)
	for ; missing > 0 && time.Since(start) < unknownFor; sidebyside.Sleep(ctx, 250*time.Millisecond) {
		known, err := r.proxy.known(ctx)
		if err != nil {
			return err
		}
		for _, addr := range known {
			if k := r.known[addr]; k != nil && !k.Swap(true) {
				missing--
				r.learned = append(r.learned, time.Since(start))
			}
		}
	}
	r.unknown = missing
	for _, k := range r.known {
		k.Store(true)
	}
	return ctx.Err()
}

// work sends the requests of one side to one upstream: of all methods in turn, in
// random order, until K is known; then so many rounds, which count.
func (r *runner) work(ctx context.Context, addr, side string) {
	sidebyside.Sleep(ctx, rand.N(closesAfter)) // so that upstreams are not in step
	ended := time.Now()
	for left := r.rounds; left > 0; {
		known := r.known[addr].Load()
		for _, i := range rand.Perm(len(r.methods)) {
			if r.known[addr].Load() != known {
				break // from now on they count
			}
			planned := closesAfter - below + rand.N(below+above)
			sidebyside.Sleep(ctx, planned-time.Since(ended))
			if ctx.Err() != nil {
				return
			}
			ended = r.request(ctx, addr, cell{r.delay, r.methods[i], side, known}, planned, ended)
		}
		if known {
			left--
		}
	}
}

// request sends one request, whose gap began at idle, and returns when it ended.
func (r *runner) request(ctx context.Context, addr string, c cell, planned time.Duration, idle time.Time) time.Time {
	req := request{side: c.side, method: c.method, upstream: addr, target: fmt.Sprintf("/%s/%d/%d", c.side, c.delay.Milliseconds(), r.serial.Add(1))}
	if c.method == http.MethodPost || c.method == http.MethodPut {
		// As many small ones as large ones, on a logarithmic scale.
		req.body = make([]byte, rand.IntN(largestBody>>rand.IntN(17))+1)
	}
	start := time.Now()
	s := sample{gap: start.Sub(idle)}
	resp, err := r.proxy.send(ctx, req)
	what := fmt.Sprint(err)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		what = fmt.Sprintf("%s %v", resp.Status, err)
		s.failed = err != nil || resp.StatusCode/100 != 2
	} else {
		s.failed = true
	}
	ended := time.Now()
	if ctx.Err() != nil {
		return ended
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples[c] = append(r.samples[c], s)
	r.late = append(r.late, s.gap-planned)
	if s.failed && c.side == ours {
		r.failures = append(r.failures, failure{cell: c, sample: s, began: start, ended: ended, upstream: addr, target: req.target, what: what})
	}
	return ended
}

// countTwice counts requests that the server has done more than once.
func (r *runner) countTwice(server *servers.Server) error {
	done, err := server.Done()
	if err != nil {
		return err
	}
	for request, times := range done {
		method, target, _ := strings.Cut(request, " ")
		if times > 1 && slices.Contains(once, method) {
			_, rest, _ := strings.Cut(target, "/")
			side, _, _ := strings.Cut(rest, "/")
			r.twice[cell{method: method, side: side}]++
		}
	}
	return nil
}
