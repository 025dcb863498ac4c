package upstreampool

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

const (
	defaultMaxPending     = 1000
	defaultAcquireTimeout = 5 * time.Second
	defaultJitter         = 10 // percent
	defaultIdlePerHost    = 1024
	defaultIdle           = 10_000 // connections of all pools of a transport
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
	base           idletime.Config // max_idle_time, read_timeout, upstream_keep_alive, margin
	reuse          bool            // keepalive is not off
	maxLifetime    time.Duration   // 0: unlimited
	jitter         int             // percent of maxLifetime
	maxRequests    int             // 0: unlimited; 1 without reuse
	maxConns       int             // per pool; 0: unlimited
	maxPending     int
	acquireTimeout time.Duration
	minIdle        int
	maxIdle        int // idle connections of all pools; negative: unlimited
	maxIdlePerHost int
	dialTimeout    time.Duration
	handshake      time.Duration
	h2c            bool
	proxyProtocol  bool
	remember       bool
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

// config returns what the pools are run with, before the embedded transport
// fills in defaults of its own.
func (t *Transport) config() config {
	orElse := func(d caddy.Duration, def time.Duration) time.Duration {
		if d == 0 {
			return def
		}
		return time.Duration(d)
	}
	cfg := config{
		base: idletime.Config{
			MaxIdle:     orElse(t.MaxIdleTime, idletime.DefaultMaxIdle),
			ReadTimeout: time.Duration(t.ReadTimeout),
			KeepAlive:   time.Duration(t.UpstreamKeepAlive),
			Margin:      time.Duration(t.Margin),
		},
		reuse:          true,
		maxLifetime:    time.Duration(t.MaxLifetime),
		jitter:         defaultJitter,
		maxRequests:    t.MaxRequests,
		maxConns:       t.MaxConnsPerHost,
		maxPending:     defaultMaxPending,
		acquireTimeout: orElse(t.AcquireTimeout, defaultAcquireTimeout),
		minIdle:        t.MinIdle,
		maxIdle:        defaultIdle,
		maxIdlePerHost: defaultIdlePerHost,
		proxyProtocol:  t.ProxyProtocol != "",
		remember:       t.Remember == nil || *t.Remember,
	}
	if t.MaxLifetimeJitter != nil {
		cfg.jitter = *t.MaxLifetimeJitter
	}
	if t.MaxPending != 0 {
		cfg.maxPending = t.MaxPending
	}
	if ka := t.KeepAlive; ka != nil {
		cfg.base.MaxIdle = orElse(ka.IdleConnTimeout, cfg.base.MaxIdle)
		cfg.reuse = ka.Enabled == nil || *ka.Enabled
		if ka.MaxIdleConns != 0 {
			cfg.maxIdle = ka.MaxIdleConns
		}
		if ka.MaxIdleConnsPerHost != 0 {
			cfg.maxIdlePerHost = ka.MaxIdleConnsPerHost
			cfg.reuse = cfg.reuse && ka.MaxIdleConnsPerHost > 0
		}
	}
	if !cfg.reuse {
		cfg.maxRequests = 1
	}
	return cfg
}

// complete fills in what the embedded transport knows after provisioning.
func (t *Transport) complete(cfg *config) {
	cfg.dialTimeout = time.Duration(t.DialTimeout)
	if cfg.dialTimeout <= 0 {
		cfg.dialTimeout = defaultDialTimeout
	}
	cfg.handshake = defaultHandshake
	if t.TLS != nil && t.TLS.HandshakeTimeout > 0 {
		cfg.handshake = time.Duration(t.TLS.HandshakeTimeout)
	}
	cfg.h2c = slices.Contains(t.Versions, "h2c")
}
