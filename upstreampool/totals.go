package upstreampool

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Totals are sums over all upstreams since the process began. They only grow, also
// over reloads.
type Totals struct {
	// Attempts at requests.
	Requests int64
	// Connections opened.
	Opened int64
	// Requests that met a connection as the upstream was closing it.
	Races int64
	// Requests that found no connection in the pool, and how long they waited for one
	// in all, in seconds.
	Waits       int64
	WaitSeconds float64
}

// dropped holds what [Sums] would lose with the metrics of upstreams that are
// forgotten.
var dropped struct {
	sync.Mutex
	Totals
}

// Sums adds up the metrics.
func Sums() Totals {
	dropped.Lock()
	defer dropped.Unlock()
	t := dropped.Totals
	collectors.requests.all(adder(t.addRequests))
	collectors.opened.all(adder(t.addOpened))
	collectors.races.all(adder(t.addRaces))
	collectors.wait.all(adder(t.addWaits))
	return t
}

// dropSeries removes the metrics of an upstream.
func dropSeries(upstream string) {
	dropped.Lock()
	defer dropped.Unlock()
	t := &dropped.Totals
	collectors.requests.ofUpstream(upstream, adder(t.addRequests))
	collectors.opened.ofUpstream(upstream, adder(t.addOpened))
	collectors.races.ofUpstream(upstream, adder(t.addRaces))
	collectors.wait.ofUpstream(upstream, adder(t.addWaits))
	for _, f := range ofUpstreams {
		f.forget(upstream)
	}
}

func (t *Totals) addRequests(m *dto.Metric) { t.Requests += int64(m.GetCounter().GetValue()) }
func (t *Totals) addOpened(m *dto.Metric)   { t.Opened += int64(m.GetCounter().GetValue()) }
func (t *Totals) addRaces(m *dto.Metric)    { t.Races += int64(m.GetCounter().GetValue()) }

func (t *Totals) addWaits(m *dto.Metric) {
	t.Waits += int64(m.GetHistogram().GetSampleCount())
	t.WaitSeconds += m.GetHistogram().GetSampleSum()
}

// adder returns what reads a series and adds it.
func adder(add func(*dto.Metric)) func(prometheus.Metric) {
	return func(m prometheus.Metric) {
		var value dto.Metric
		if m.Write(&value) == nil {
			add(&value)
		}
	}
}
