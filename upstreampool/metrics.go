package upstreampool

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/metrics"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// collectors are made once: each configuration registers the same ones, so
// that counts go on over reloads.
var collectors = struct {
	opened, closed, dialErrors, hedged, requests, races, replays, refusals *family[prometheus.Counter]
	wait, socketOpen, handshake, firstByte                                 *family[prometheus.Observer]
	storage                                                                *prometheus.CounterVec
	pools                                                                  poolCollector
}{
	opened:     counters("connections_opened_total", "Connections opened.", "upstream"),
	closed:     counters("connections_closed_total", "Connections closed, by reason.", "upstream", "reason"),
	dialErrors: counters("dial_errors_total", "Connections that could not be opened.", "upstream"),
	hedged: counters("hedged_dials_total",
		"Dials that were started because those under way took long.", "upstream"),
	requests: counters("requests_total",
		"Attempts at requests, by connection: new (dialed for it) or reused (from the pool).", "upstream", "connection"),
	races: counters("races_total",
		"Requests that met a connection as the upstream was closing it, by outcome: replayed or failed.", "upstream", "outcome"),
	replays:  counters("replays_total", "Requests sent a second time, by reason.", "upstream", "reason"),
	refusals: counters("refusals_total", "Requests that got no connection, by reason: queue_full or timeout.", "upstream", "reason"),
	storage: counter("storage_operations_total",
		"Reads and writes of what is remembered of upstreams, by outcome.", "operation", "outcome"),
	wait: histograms("acquire_wait_seconds",
		"How long requests waited that found no connection in the pool.", "upstream"),
	socketOpen: histograms("dial_seconds",
		"How long new connections took to open, before TLS: name resolution and TCP.", "upstream"),
	handshake: histograms("handshake_seconds",
		"How long TLS handshakes took, by session: full or resumed.", "upstream", "session"),
	firstByte: histograms("time_to_first_byte_seconds",
		"How long attempts at requests took until the head of a response arrived, by class of its status.", "upstream", "status"),
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "upstreampool", Name: name, Help: help,
	}, labels)
}

func counters(name, help string, labels ...string) *family[prometheus.Counter] {
	return &family[prometheus.Counter]{vec: counter(name, help, labels...)}
}

// histograms have buckets for every Prometheus, and native ones, of at most 10 %
// width, for those that store them. Their number is bounded by width alone: a
// histogram that begins anew would take back what [Sums] has told.
func histograms(name, help string, labels ...string) *family[prometheus.Observer] {
	return &family[prometheus.Observer]{vec: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "caddy", Subsystem: "upstreampool", Name: name, Help: help,
		Buckets:                        prometheus.ExponentialBuckets(0.0005, 4, 8),
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 100,
	}, labels)}
}

// ofUpstreams are the metrics whose series go with their upstream.
var ofUpstreams = []interface {
	prometheus.Collector
	forget(upstream string)
}{
	collectors.opened, collectors.closed, collectors.dialErrors, collectors.hedged,
	collectors.requests, collectors.races, collectors.replays, collectors.refusals,
	collectors.wait, collectors.socketOpen, collectors.handshake, collectors.firstByte,
}

// registerMetrics makes the collectors part of a configuration's registry.
func registerMetrics(reg prometheus.Registerer) error {
	for _, write := range []bool{false, true} {
		for _, failed := range []bool{false, true} {
			storageCounter(write, failed) // is there from 0 on
		}
	}
	all := []prometheus.Collector{collectors.storage, collectors.pools}
	for _, v := range ofUpstreams {
		all = append(all, v)
	}
	for _, c := range all {
		if _, err := metrics.Register(reg, c); err != nil {
			return err
		}
	}
	return nil
}

// requestCounters are a pool's own, so that a request looks up no labels. They
// are there from 0 on: Prometheus sees no increase in a counter that is 1 at
// first sight, and an alert has to go off on the first failure. Of the classes of
// status those are there that tell a failing upstream from a well one.
type requestCounters struct {
	fresh, reused                prometheus.Counter
	raceReplayed, raceFailed     prometheus.Counter
	refusedQueue, refusedTimeout prometheus.Counter
	opened, dialErrors, hedged   prometheus.Counter
	firstByte                    firstByteTimes

	freshHere, reusedHere atomic.Int64 // of this pool, for its state
}

func newRequestCounters(upstream string) *requestCounters {
	r := &requestCounters{
		fresh:  collectors.requests.WithLabelValues(upstream, "new"),
		reused: collectors.requests.WithLabelValues(upstream, "reused"),

		raceReplayed: collectors.races.WithLabelValues(upstream, "replayed"),
		raceFailed:   collectors.races.WithLabelValues(upstream, "failed"),

		refusedQueue:   collectors.refusals.WithLabelValues(upstream, "queue_full"),
		refusedTimeout: collectors.refusals.WithLabelValues(upstream, "timeout"),

		opened:     collectors.opened.WithLabelValues(upstream),
		dialErrors: collectors.dialErrors.WithLabelValues(upstream),
		hedged:     collectors.hedged.WithLabelValues(upstream),

		firstByte: firstByteTimes{upstream: upstream},
	}
	r.firstByte.of(http.StatusOK)
	r.firstByte.of(http.StatusInternalServerError)
	return r
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

// statusClasses are the values of the status label, by the first digit of the
// status. An upstream may send any three digits.
var statusClasses = [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

// firstByteTimes are the histograms of one upstream, each made when it is needed.
type firstByteTimes struct {
	upstream string
	byClass  [len(statusClasses)]atomic.Pointer[prometheus.Observer]
}

// of returns the histogram for responses with a status.
func (f *firstByteTimes) of(status int) prometheus.Observer {
	class := status / 100
	if class >= len(statusClasses) {
		class = 0
	}
	if made := f.byClass[class].Load(); made != nil {
		return *made
	}
	made := collectors.firstByte.WithLabelValues(f.upstream, statusClasses[class])
	f.byClass[class].Store(&made)
	return made
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

// storageCounter returns the counter of operations of the storage.
func storageCounter(write, failed bool) prometheus.Counter {
	operation, outcome := "read", "done"
	if write {
		operation = "write"
	}
	if failed {
		outcome = "failed"
	}
	return collectors.storage.WithLabelValues(operation, outcome)
}
