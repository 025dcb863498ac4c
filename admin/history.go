package admin

import (
	"context"
	"maps"
	"net/url"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/misdirected"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

const (
	// sampleEvery is the time between two points of the history.
	sampleEvery = 10 * time.Second
	// points is how many points there are at most: 10 minutes of them.
	points = 60
)

// A Point is what happened in the 10 seconds before a time, on all servers and with
// all upstreams.
type Point struct {
	Time time.Time `json:"time"`
	// Requests to upstreams, connections opened to them, and requests that met a
	// connection as the upstream was closing it.
	Requests int64 `json:"requests"`
	Opened   int64 `json:"opened"`
	Races    int64 `json:"races"`
	// Requests that waited for a connection, and for how long on average, in seconds.
	Waits int64   `json:"waits"`
	Wait  float64 `json:"wait"`
	// Requests that got 421, by reason.
	Misdirected map[string]int64 `json:"misdirected"`
}

// A History is the answer to GET /connreuse/history.
type History struct {
	// Seconds between two points.
	Every float64 `json:"every"`
	// Those of the last 10 minutes, the oldest first.
	Points []Point `json:"points"`
}

// past is the history of this process, over reloads.
var past recorder

// A recorder reads counters that grow anyway, from time to time: requests know
// nothing of it. It runs while a config with an admin API does.
type recorder struct {
	mu      sync.Mutex
	configs int // that want it
	stop    chan struct{}
	last    sums
	points  []Point
}

type sums struct {
	upstreampool.Totals
	misdirected map[string]int64
}

// Provision lets the history run for as long as the config does.
func (API) Provision(ctx caddy.Context) error {
	past.begin()
	context.AfterFunc(ctx, past.end)
	return nil
}

func (r *recorder) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.configs++; r.configs > 1 {
		return
	}
	// What happened before is not of the last 10 seconds.
	r.last = read()
	r.stop = make(chan struct{})
	go r.run(r.stop)
}

func (r *recorder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.configs--; r.configs == 0 {
		close(r.stop)
	}
}

func (r *recorder) run(stop <-chan struct{}) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			r.sample(now)
		}
	}
}

func read() sums { return sums{upstreampool.Sums(), misdirected.Misdirected()} }

// sample adds a point.
func (r *recorder) sample(now time.Time) {
	s := read()
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Point{
		Time: now.UTC(), Requests: s.Requests - r.last.Requests, Opened: s.Opened - r.last.Opened, Races: s.Races - r.last.Races,
		Waits: s.Waits - r.last.Waits, Misdirected: make(map[string]int64),
	}
	if p.Waits > 0 {
		p.Wait = (s.WaitSeconds - r.last.WaitSeconds) / float64(p.Waits)
	}
	for reason, n := range s.misdirected {
		if n -= r.last.misdirected[reason]; n > 0 {
			p.Misdirected[reason] = n
		}
	}
	r.last = s
	if len(r.points) == points {
		r.points = append(r.points[:0], r.points[1:]...)
	}
	r.points = append(r.points, p)
}

// list returns the points, also those that an interval without any config leaves.
func (r *recorder) list(now time.Time) []Point {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []Point{}
	for _, p := range r.points {
		if now.Sub(p.Time) <= (points+1)*sampleEvery {
			p.Misdirected = maps.Clone(p.Misdirected)
			list = append(list, p)
		}
	}
	return list
}

func history(url.Values) (any, error) {
	return History{sampleEvery.Seconds(), past.list(time.Now())}, nil
}

// Interface guard
var _ caddy.Provisioner = API{}
