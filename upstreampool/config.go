package upstreampool

import (
	"math/rand/v2"
	"time"
)

const (
	defaultMaxIdleTime    = 2 * time.Minute
	defaultMaxPending     = 1000
	defaultAcquireTimeout = 5 * time.Second
	defaultJitter         = 10 // percent
	defaultIdlePerHost    = 1024
	defaultDialTimeout    = 10 * time.Second
	defaultHandshake      = 10 * time.Second

	// warmFor is how long after its last request a pool keeps min_idle
	// connections open. Addresses can be chosen by clients.
	warmFor = time.Hour

	// redialAfter is the pause after a dial for min_idle failed.
	redialAfter = time.Second
)

// config is the checked configuration of the pools, all defaults filled in.
type config struct {
	base           knowledge     // max_idle_time, read_timeout, upstream_keep_alive, margin
	reuse          bool          // keepalive is not off
	maxLifetime    time.Duration // 0: unlimited
	jitter         int           // percent of maxLifetime
	maxRequests    int           // 0: unlimited
	maxConns       int           // per pool; 0: unlimited
	maxPending     int
	acquireTimeout time.Duration
	minIdle        int
	maxIdle        int // idle connections of all pools; 0: unlimited
	maxIdlePerHost int
	dialTimeout    time.Duration
	handshake      time.Duration
	h2c            bool
	proxyProtocol  bool
}

// life returns the lifetime of a new connection: maxLifetime, shortened by a
// random part of the jitter, so that connections opened together do not all end
// together.
func (c *config) life() time.Duration {
	if c.maxLifetime == 0 || c.jitter == 0 {
		return c.maxLifetime
	}
	return c.maxLifetime - time.Duration(rand.Int64N(int64(c.maxLifetime)*int64(c.jitter)/100+1))
}
