package upstreampool

import (
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

// Sums adds up the metrics.
func Sums() Totals {
	dropped.Lock()
	defer dropped.Unlock()
	t := dropped.Totals
	t.add(func(*dto.Metric) bool { return true })
	return t
}

// add adds the metrics that match.
func (t *Totals) add(match func(*dto.Metric) bool) {
	for _, sum := range []struct {
		collector prometheus.Collector
		to        *int64
	}{
		{collectors.requests, &t.Requests}, {collectors.opened, &t.Opened}, {collectors.races, &t.Races},
	} {
		for value := range values(sum.collector) {
			if match(value) {
				*sum.to += int64(value.GetCounter().GetValue())
			}
		}
	}
	for value := range values(collectors.wait) {
		if match(value) {
			t.Waits += int64(value.GetHistogram().GetSampleCount())
			t.WaitSeconds += value.GetHistogram().GetSampleSum()
		}
	}
}

// values goes through the values of a metric.
func values(c prometheus.Collector) func(yield func(*dto.Metric) bool) {
	return func(yield func(*dto.Metric) bool) {
		metrics := make(chan prometheus.Metric)
		go func() {
			defer close(metrics)
			c.Collect(metrics)
		}()
		more := true
		for metric := range metrics { // to the end, for the goroutine's
			var value dto.Metric
			if more && metric.Write(&value) == nil {
				more = yield(&value)
			}
		}
	}
}
