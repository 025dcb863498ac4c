package misdirected

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-connreuse/connreuse/internal/metrics"
)

// An outcome is what a request is counted as.
type outcome uint8

const (
	uncounted outcome = iota // there was no TLS
	direct
	shared
	coalescedSite
	coalescedCertificate
	exempt
	noSNI
	misdirected
	reported
	badHost
	outcomeCount
)

var outcomes = [outcomeCount]string{
	direct:               "direct",
	shared:               "shared",
	coalescedSite:        "coalesced_site",
	coalescedCertificate: "coalesced_certificate",
	exempt:               "exempt",
	noSNI:                "no_sni",
	misdirected:          "misdirected",
	reported:             "reported",
	badHost:              "bad_host",
}

// protocols are the protocol labels, by the major version of HTTP.
var protocols = [...]string{1: "h1", 2: "h2", 3: "h3"}

func protocol(major int) int {
	return min(max(major, 1), len(protocols)-1)
}

var requests = prometheus.NewCounterVec(prometheus.CounterOpts{
	Namespace: "caddy",
	Subsystem: "misdirected",
	Name:      "requests_total",
	Help:      "Requests over TLS that a misdirected handler decided on, by outcome.",
}, []string{"server", "protocol", "outcome"})

// counters are the counters of one server, looked up once: by protocol and
// outcome. A nil one counts nothing.
type counters [len(protocols)][outcomeCount]prometheus.Counter

func newCounters(reg prometheus.Registerer, server string) (*counters, error) {
	vec, err := metrics.Register(reg, requests)
	if err != nil {
		return nil, err
	}
	c := new(counters)
	for p := 1; p < len(protocols); p++ {
		for o := uncounted + 1; o < outcomeCount; o++ {
			c[p][o] = vec.WithLabelValues(server, protocols[p], outcomes[o])
		}
	}
	return c, nil
}

func (c *counters) count(major int, o outcome) {
	if counter := c[protocol(major)][o]; counter != nil {
		counter.Inc()
	}
}
