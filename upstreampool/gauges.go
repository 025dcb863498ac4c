package upstreampool

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

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
