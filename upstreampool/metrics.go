package upstreampool

import (
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/metrics"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// collectors are made once: each configuration registers the same ones, so
// that counts go on over reloads.
var collectors = struct {
	opened, closed, requests, races, replays, refusals *prometheus.CounterVec
	wait                                               *prometheus.HistogramVec
	pools                                              poolCollector
}{
	opened: counter("connections_opened_total", "Connections opened.", "upstream"),
	closed: counter("connections_closed_total", "Connections closed, by reason.", "upstream", "reason"),
	requests: counter("requests_total",
		"Attempts at requests, by connection: new (dialed for it) or reused (from the pool).", "upstream", "connection"),
	races: counter("races_total",
		"Requests that met a connection as the upstream was closing it, by outcome: replayed or failed.", "upstream", "outcome"),
	replays:  counter("replays_total", "Requests sent a second time, by reason.", "upstream", "reason"),
	refusals: counter("refusals_total", "Requests that got no connection, by reason: queue_full or timeout.", "upstream", "reason"),
	wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "upstreampool", Name: "acquire_wait_seconds",
		Help:    "How long requests waited that found no connection in the pool.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
	}, []string{"upstream"}),
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "upstreampool", Name: name, Help: help,
	}, labels)
}

// registerMetrics makes the collectors part of a configuration's registry.
func registerMetrics(reg prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{
		collectors.opened, collectors.closed, collectors.requests, collectors.races, collectors.replays,
		collectors.refusals, collectors.wait, collectors.pools,
	} {
		if _, err := metrics.Register(reg, c); err != nil {
			return err
		}
	}
	return nil
}

// requestCounters are a pool's own, so that a request looks up no labels. They
// are there from 0 on: Prometheus sees no increase in a counter that is 1 at
// first sight, and an alert has to go off on the first failure.
type requestCounters struct {
	fresh, reused                prometheus.Counter
	raceReplayed, raceFailed     prometheus.Counter
	refusedQueue, refusedTimeout prometheus.Counter

	freshHere, reusedHere atomic.Int64 // of this pool, for its state
}

func newRequestCounters(upstream string) requestCounters {
	return requestCounters{
		fresh:  collectors.requests.WithLabelValues(upstream, "new"),
		reused: collectors.requests.WithLabelValues(upstream, "reused"),

		raceReplayed: collectors.races.WithLabelValues(upstream, "replayed"),
		raceFailed:   collectors.races.WithLabelValues(upstream, "failed"),

		refusedQueue:   collectors.refusals.WithLabelValues(upstream, "queue_full"),
		refusedTimeout: collectors.refusals.WithLabelValues(upstream, "timeout"),
	}
}

// count counts an attempt at a request.
func (r *requestCounters) count(reused bool) {
	if reused {
		r.reused.Inc()
		r.reusedHere.Add(1)
	} else {
		r.fresh.Inc()
		r.freshHere.Add(1)
	}
}

func countOpened(upstream string) {
	collectors.opened.WithLabelValues(upstream).Inc()
}

func countClosed(upstream string, reason connpool.CloseReason) {
	collectors.closed.WithLabelValues(upstream, string(reason)).Inc()
}

func countReplayed(upstream string, reason replay.Reason) {
	collectors.replays.WithLabelValues(upstream, string(reason)).Inc()
}

func countWaited(upstream string, d time.Duration) {
	collectors.wait.WithLabelValues(upstream).Observe(d.Seconds())
}

// redacted returns a URL without its password.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "invalid"
	}
	return u.Redacted()
}

// poolCollector reads the gauges off the pools when it is asked.
type poolCollector struct{}

var (
	descConnections = desc("connections", "Connections, by state.", "upstream", "state")
	descWaiting     = desc("waiting_requests", "Requests that wait for a connection.", "upstream")
	descLimit       = desc("idle_limit_seconds", "For how long a connection may be idle and still be used.", "upstream", "protocol", "source")
	descKeepAlive   = desc("keep_alive_seconds", "After how long the upstream closes idle connections.", "upstream", "protocol", "source")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caddy_upstreampool_"+name, help, labels, nil)
}

func (poolCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descConnections
	ch <- descWaiting
	ch <- descLimit
	ch <- descKeepAlive
}

// Collect adds up the pools of one label: there is one pool per server name,
// and "other" stands for many upstreams. Of several limits the smallest is told.
func (poolCollector) Collect(ch chan<- prometheus.Metric) {
	type limitKey struct {
		label, protocol string
	}
	type sum struct {
		connections map[string]int
		waiting     int
	}
	sums := make(map[string]*sum)
	limits := make(map[limitKey]idletime.Limit)
	now := time.Now()
	for _, c := range cores() {
		for _, p := range c.all() {
			h2 := p.HTTP2()
			limit := p.up.Learner(h2).Limit(now, idletime.Optional{})
			k := limitKey{p.label, protocolName(h2)}
			if l, ok := limits[k]; !ok || limit.Value < l.Value {
				limits[k] = limit
			}
			s := sums[p.label]
			if s == nil {
				s = &sum{connections: make(map[string]int)}
				sums[p.label] = s
			}
			held := p.Snapshot()
			for state, n := range held.Connections {
				s.connections[state] += n
			}
			s.waiting += held.Waiting
		}
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for label, s := range sums {
		for state, n := range s.connections {
			gauge(descConnections, float64(n), label, state)
		}
		gauge(descWaiting, float64(s.waiting), label)
	}
	for k, l := range limits {
		gauge(descLimit, l.Value.Seconds(), k.label, k.protocol, string(l.Source))
		gauge(descKeepAlive, l.KeepAlive.Seconds(), k.label, k.protocol, string(l.Source))
	}
}
