package upstreampool

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// A vec is a metric with labels, as the client library has it.
type vec[M any] interface {
	prometheus.Collector
	WithLabelValues(values ...string) M
	DeleteLabelValues(values ...string) bool
}

// A family is a metric with a series for each upstream, or one for each upstream and
// each value of a closed list. To find the series of one upstream takes no longer for
// being one of many, unlike in the vec.
type family[M any] struct {
	vec[M]
	values sync.Map // those of the closed list that there are
}

// WithLabelValues returns the series of an upstream, and a value of the closed list if
// there is one.
func (f *family[M]) WithLabelValues(values ...string) M {
	for _, value := range values[1:] {
		if _, known := f.values.Load(value); !known {
			f.values.Store(value, true)
		}
	}
	return f.vec.WithLabelValues(values...)
}

// series calls do with the label values of all series that an upstream may have.
func (f *family[M]) series(upstream string, do func(labels ...string)) {
	listed := false
	f.values.Range(func(value, _ any) bool {
		listed = true
		do(upstream, value.(string))
		return true
	})
	if !listed {
		do(upstream)
	}
}

// forget removes the series of an upstream.
func (f *family[M]) forget(upstream string) {
	f.series(upstream, func(labels ...string) { f.DeleteLabelValues(labels...) })
}

// ofUpstream goes through the series of an upstream; those that it does not have are
// made.
func (f *family[M]) ofUpstream(upstream string, do func(prometheus.Metric)) {
	f.series(upstream, func(labels ...string) { do(any(f.vec.WithLabelValues(labels...)).(prometheus.Metric)) })
}

// all goes through the series of all upstreams.
func (f *family[M]) all(do func(prometheus.Metric)) {
	metrics := make(chan prometheus.Metric)
	go func() {
		defer close(metrics)
		f.Collect(metrics)
	}()
	for metric := range metrics {
		do(metric)
	}
}
