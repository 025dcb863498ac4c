package upstreampool

import (
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
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
	defaultFollowDNS      = 30 * time.Second
)

// config is the checked configuration of a transport, all defaults filled in.
type config struct {
	connpool.Config
	dialTimeout   time.Duration
	handshake     time.Duration
	h2c           bool
	proxyProtocol bool
	remember      bool
	followDNS     time.Duration // negative: off
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
		Config: connpool.Config{
			Idle: idletime.Config{
				MaxIdle:     orElse(t.MaxIdleTime, idletime.DefaultMaxIdle),
				ReadTimeout: time.Duration(t.ReadTimeout),
				KeepAlive:   time.Duration(t.UpstreamKeepAlive),
				Margin:      time.Duration(t.Margin),
			},
			Reuse:          true,
			MaxLifetime:    time.Duration(t.MaxLifetime),
			Jitter:         defaultJitter,
			MaxRequests:    t.MaxRequests,
			MaxConns:       t.MaxConnsPerHost,
			MaxPending:     defaultMaxPending,
			AcquireTimeout: orElse(t.AcquireTimeout, defaultAcquireTimeout),
			MinIdle:        t.MinIdle,
			MaxIdle:        defaultIdle,
			MaxIdlePerPool: defaultIdlePerHost,
		},
		proxyProtocol: t.ProxyProtocol != "",
		remember:      t.Remember == nil || *t.Remember,
		followDNS:     orElse(t.FollowDNS, defaultFollowDNS),
	}
	if t.MaxLifetimeJitter != nil {
		cfg.Jitter = *t.MaxLifetimeJitter
	}
	if t.MaxPending != 0 {
		cfg.MaxPending = t.MaxPending
	}
	if ka := t.KeepAlive; ka != nil {
		cfg.Idle.MaxIdle = orElse(ka.IdleConnTimeout, cfg.Idle.MaxIdle)
		cfg.Reuse = ka.Enabled == nil || *ka.Enabled
		if ka.MaxIdleConns != 0 {
			cfg.MaxIdle = ka.MaxIdleConns
		}
		if ka.MaxIdleConnsPerHost != 0 {
			cfg.MaxIdlePerPool = ka.MaxIdleConnsPerHost
			cfg.Reuse = cfg.Reuse && ka.MaxIdleConnsPerHost > 0
		}
	}
	if !cfg.Reuse {
		cfg.MaxRequests = 1
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
	if ka := t.KeepAlive; ka != nil {
		cfg.ProbeInterval = max(time.Duration(ka.ProbeInterval), 0)
	}
	cfg.h2c = slices.Contains(t.Versions, "h2c")
}
