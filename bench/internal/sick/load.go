package sick

import (
	"bufio"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// A client gives up after this time.
const patience = 10 * time.Second

// A load is when requests are sent.
type load struct {
	// pause returns the time between two requests.
	pause func(*rand.Rand) time.Duration
	// burst is how many are sent at once; 0 is one.
	burst int
	// serial: the next request waits for the answer before, as one client does.
	serial bool
	// posts: all are POSTs; otherwise every other one.
	posts bool
}

// every is a pause that is always the same; around varies between half and one and a
// half of it.
func every(d time.Duration) func(*rand.Rand) time.Duration {
	return func(*rand.Rand) time.Duration { return d }
}

func around(d time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return d/2 + time.Duration(r.Int64N(int64(d))) }
}

// A request is what became of one.
type request struct {
	number      int // in the order in which they were sent
	began, took time.Duration
	failed      bool
}

// run sends the load to a proxy for a time, and goes on with it until all requests of
// that time have ended: those that come later count for nothing, but no request is the
// last of all. They are given up then. Equal seeds are equal loads.
func (l load) run(ctx context.Context, proxy string, last time.Duration, seed uint64) []request {
	clients := &clients{addr: proxy}
	defer clients.close()
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	random := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	var sent []request
	var all sync.WaitGroup
	begin := time.Now()
	number := 0
	var counting atomic.Int64 // requests under way that count
	for at := time.Duration(0); at < last || counting.Load() > 0; at += l.pause(random) {
		sidebyside.Sleep(ctx, at-time.Since(begin))
		if ctx.Err() != nil {
			break
		}
		for range max(1, l.burst) {
			method := http.MethodPost
			if number%2 == 0 && !l.posts {
				method = http.MethodGet
			}
			r := request{number: number}
			number++
			counts := at < last
			if counts {
				counting.Add(1)
			}
			all.Go(func() {
				r.began = time.Since(begin)
				r.failed = !clients.send(ctx, method)
				r.took = time.Since(begin) - r.began
				if counts {
					mu.Lock()
					sent = append(sent, r)
					mu.Unlock()
					counting.Add(-1)
				}
			})
		}
		if l.serial {
			all.Wait()
			at = max(at, time.Since(begin))
		}
	}
	giveUp()
	all.Wait()
	return sent
}

// clients hold a connection each, one request on it at a time, and never repeat a
// request, unlike browsers and net/http's client, which would hide failures.
type clients struct {
	addr string
	mu   sync.Mutex
	idle []*client
}

type client struct {
	net.Conn
	reader *bufio.Reader
}

// send sends a request over the client that was used last, or a new one, and reports
// whether it was answered with 2xx.
func (all *clients) send(ctx context.Context, method string) bool {
	all.mu.Lock()
	var c *client
	if n := len(all.idle); n > 0 {
		c, all.idle = all.idle[n-1], all.idle[:n-1]
	}
	all.mu.Unlock()
	if c == nil {
		conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", all.addr)
		if err != nil {
			return false
		}
		c = &client{conn, bufio.NewReader(conn)}
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	resp, err := sidebyside.Exchange(c, c.reader, method, "/", patience)
	if err != nil || resp.Close {
		_ = c.Close()
	} else {
		all.mu.Lock()
		all.idle = append(all.idle, c)
		all.mu.Unlock()
	}
	return err == nil && resp.StatusCode/100 == 2
}

func (all *clients) close() {
	for _, c := range all.idle {
		_ = c.Close()
	}
}

// figures are those of one proxy in one case.
type figures struct {
	sent   []request // by how long they took
	failed int
	opened int // connections to upstreams
	faults int // connections that met the fault, where that is counted
}

func (f *figures) add(sent []request) {
	f.sent = slices.SortedFunc(slices.Values(sent), func(a, b request) int { return int(a.took - b.took) })
	for _, r := range sent {
		if r.failed {
			f.failed++
		}
	}
}

// quantile is the time within which that share of the requests ended.
func (f *figures) quantile(share float64) time.Duration {
	return f.sent[min(int(share*float64(len(f.sent))), len(f.sent)-1)].took
}

// longer is how many requests took longer, by server, where they take turns.
func (f *figures) longer(than time.Duration, servers int) []int {
	n := make([]int, servers)
	for _, r := range f.sent {
		if r.took > than {
			n[r.number%servers]++
		}
	}
	return n
}

// after are the figures of requests that began after a time.
func (f *figures) after(begin time.Duration) *figures {
	later := new(figures)
	for _, r := range f.sent {
		if r.began > begin {
			later.sent = append(later.sent, r)
		}
	}
	return later
}

// each is how many connections were opened for a request.
func (f *figures) each() float64 { return float64(f.opened) / float64(len(f.sent)) }
