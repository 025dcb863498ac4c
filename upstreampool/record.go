package upstreampool

import (
	"container/list"
	"maps"
	"net/url"
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// maxRecords is how many records a core keeps. Clients can choose keys.
const maxRecords = 1000

// A record is what is counted of the connections of one key. It outlives the pool,
// which comes and goes with its connections.
type record struct {
	key key
	up  *upstream
	// label names the upstream in metrics, where it is "other" if there are
	// too many; name always names it.
	label, name string

	requests *requestCounters

	mu    sync.Mutex
	stats stats
}

// stats is what a record counts.
type stats struct {
	opened     int64
	dialErrors int64
	refused    int64
	races      int64
	closes     map[connpool.CloseReason]int64
	replays    map[replay.Reason]int64
}

// count changes the stats.
func (r *record) count(change func(s *stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.stats)
}

// records are those of a core, the one that was asked for last in front.
type records struct {
	mu    sync.Mutex
	byKey map[key]*list.Element
	order list.List // of *record
}

// get returns the record of a key, made on first use.
func (rs *records) get(k key, up *upstream) *record {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if e := rs.byKey[k]; e != nil {
		rs.order.MoveToFront(e)
		return e.Value.(*record)
	}
	if rs.byKey == nil {
		rs.byKey = make(map[key]*list.Element)
	}
	if rs.order.Len() >= maxRecords {
		delete(rs.byKey, rs.order.Remove(rs.order.Back()).(*record).key)
	}
	r := &record{
		key: k, up: up, label: up.label, name: up.key.name(),
		requests: newRequestCounters(up.label),
		stats:    stats{closes: make(map[connpool.CloseReason]int64), replays: make(map[replay.Reason]int64)},
	}
	rs.byKey[k] = rs.order.PushFront(r)
	return r
}

// all returns the records there are.
func (rs *records) all() []*record {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	all := make([]*record, 0, rs.order.Len())
	for e := rs.order.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*record))
	}
	return all
}

// states describes what c knows: its pools, and its records without one.
func (c *core) states(now time.Time) []PoolState {
	var states []PoolState
	sites := c.users.sites()
	add := func(r *record, h2 bool, held connpool.Snapshot) {
		s := r.state(now, h2, held)
		s.Sites, s.Transport = sites, c.id
		states = append(states, s)
	}
	live := make(map[*record]bool)
	for _, p := range c.all() {
		live[p.record] = true
		add(p.record, p.HTTP2(), p.Snapshot())
	}
	for _, r := range c.records.all() {
		if !live[r] {
			add(r, c.speaksHTTP2(r.key, r.up), connpool.NoConnections())
		}
	}
	return states
}

// state describes r, whose pool holds what is given.
func (r *record) state(now time.Time, h2 bool, held connpool.Snapshot) PoolState {
	limit := r.up.Learner(h2).Limit(now, idletime.Optional{})
	r.mu.Lock()
	defer r.mu.Unlock()
	s := PoolState{
		Upstream: r.name,
		Scheme:   r.key.scheme, ServerName: r.key.sni, ClientCertificate: r.key.certificate, HTTP1Only: r.key.h1, Proxy: redacted(r.key.proxy),
		Protocol:  protocolName(h2),
		IdleLimit: limit.Value.Seconds(), KeepAlive: limit.KeepAlive.Seconds(), Source: limit.Source,
		Margin: limit.Margin.Seconds(), Why: limit.String(),
		Connections: held.Connections, IdleAges: []float64{},
		Waiting: held.Waiting,
		Opened:  r.stats.opened, DialErrors: r.stats.dialErrors, Refused: r.stats.refused,
		Reused: r.requests.reusedHere.Load(), Races: r.stats.races,
		Closes: maps.Clone(r.stats.closes), Replays: maps.Clone(r.stats.replays),
	}
	if r.key.source.IsValid() {
		s.ProxySource = r.key.source.String()
	}
	for _, age := range held.IdleAges {
		s.IdleAges = append(s.IdleAges, age.Seconds())
	}
	s.Requests = s.Reused + r.requests.freshHere.Load()
	if s.Requests > 0 {
		s.ReuseRatio = float64(s.Reused) / float64(s.Requests)
	}
	return s
}

// redacted returns a URL without its password.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "invalid"
	}
	return u.Redacted()
}
