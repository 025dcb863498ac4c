package upstreampool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

const (
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
	base           idletime.Config // max_idle_time, read_timeout, upstream_keep_alive, margin
	reuse          bool            // keepalive is not off
	maxLifetime    time.Duration   // 0: unlimited
	jitter         int             // percent of maxLifetime
	maxRequests    int             // 0: unlimited; 1 without reuse
	maxConns       int             // per pool; 0: unlimited
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

// check refuses settings that cannot mean what they say. All problems are told
// at once.
func (t *Transport) check() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for name, d := range map[string]caddy.Duration{
		"max_idle_time": t.MaxIdleTime, "upstream_keep_alive": t.UpstreamKeepAlive, "margin": t.Margin,
		"max_lifetime": t.MaxLifetime, "acquire_timeout": t.AcquireTimeout,
	} {
		if d < 0 {
			refuse("checking %s '%s': must not be negative", name, time.Duration(d))
		}
	}
	for name, n := range map[string]int{"max_requests": t.MaxRequests, "max_pending": t.MaxPending, "min_idle": t.MinIdle} {
		if n < 0 {
			refuse("checking %s '%d': must not be negative", name, n)
		}
	}
	if j := t.MaxLifetimeJitter; j != nil {
		if *j < 0 || *j > 100 {
			refuse("checking max_lifetime_jitter '%d': must be from 0 to 100 percent", *j)
		}
		if t.MaxLifetime == 0 {
			refuse("checking max_lifetime_jitter '%d': needs a max_lifetime", *j)
		}
	}
	maxIdle, name := t.MaxIdleTime, "max_idle_time"
	if ka := t.KeepAlive; ka != nil {
		if ka.IdleConnTimeout != 0 {
			if maxIdle != 0 {
				refuse("checking max_idle_time '%s': keepalive '%s' means the same, set one of them",
					time.Duration(maxIdle), time.Duration(ka.IdleConnTimeout))
			}
			maxIdle, name = ka.IdleConnTimeout, "keepalive"
			if maxIdle < 0 {
				refuse("checking keepalive '%s': must not be negative", time.Duration(maxIdle))
			}
		}
		if ka.Enabled != nil && !*ka.Enabled {
			if t.MaxIdleTime != 0 {
				refuse("checking max_idle_time '%s': keepalive is off", time.Duration(t.MaxIdleTime))
			}
			if t.MinIdle != 0 {
				refuse("checking min_idle '%d': keepalive is off", t.MinIdle)
			}
		}
	}
	if k := t.UpstreamKeepAlive; k > 0 {
		if maxIdle >= k {
			refuse("checking %s '%s': must be less than upstream_keep_alive '%s'", name, time.Duration(maxIdle), time.Duration(k))
		}
		if t.Margin >= k {
			refuse("checking margin '%s': must be less than upstream_keep_alive '%s'", time.Duration(t.Margin), time.Duration(k))
		}
		if 2*t.Margin > k && t.Margin < k {
			refuse("checking margin '%s': must be at most half of upstream_keep_alive '%s', or no connection would be reused",
				time.Duration(t.Margin), time.Duration(k))
		}
	}
	cfg := t.config()
	for name, most := range map[string]int{
		"max_conns_per_host": cfg.maxConns, "keepalive_idle_conns": cfg.maxIdle, "keepalive_idle_conns_per_host": cfg.maxIdlePerHost,
	} {
		if most > 0 && t.MinIdle > most {
			refuse("checking min_idle '%d': must be at most %s '%d'", t.MinIdle, name, most)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
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
		maxIdlePerHost: defaultIdlePerHost,
		proxyProtocol:  t.ProxyProtocol != "",
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
		cfg.maxIdle = ka.MaxIdleConns
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
