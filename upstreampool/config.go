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
	defaultUnacked        = 20 * time.Second
	defaultPingTimeout    = 15 * time.Second

	// firstProbe is after how long Go has TCP probe an idle connection for the first
	// time, where a keep-alive interval is set (net.KeepAliveConfig).
	firstProbe = 15 * time.Second
)

// config is the checked configuration of a transport, all defaults filled in.
type config struct {
	connpool.Config
	dialTimeout   time.Duration
	handshake     time.Duration
	h2            bool // may be negotiated
	h2c           bool
	proxyProtocol bool
	remember      bool
	followDNS     time.Duration // negative: off
	pingInterval  time.Duration // of HTTP/2; zero: there are none
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
			Reuse:          t.noReuse() == "",
			MaxLifetime:    time.Duration(t.MaxLifetime),
			Jitter:         defaultJitter,
			MaxRequests:    t.MaxRequests,
			MaxConns:       max(t.MaxConnsPerHost, 0), // net/http takes less for no limit, too
			MaxPending:     defaultMaxPending,
			AcquireTimeout: orElse(t.AcquireTimeout, defaultAcquireTimeout),
			MinIdle:        t.MinIdle,
			UnackedTimeout: orElse(t.UnackedTimeout, defaultUnacked),
			MaxIdle:        defaultIdle,
			MaxIdlePerPool: defaultIdlePerHost,
		},
		proxyProtocol: t.ProxyProtocol != "",
		remember:      t.Remember == nil || *t.Remember,
		followDNS:     orElse(t.FollowDNS, defaultFollowDNS),
		pingInterval:  time.Duration(t.PingInterval),
	}
	if cfg.pingInterval > 0 {
		cfg.PingTimeout = orElse(t.PingTimeout, defaultPingTimeout)
	}
	if t.MaxLifetimeJitter != nil {
		cfg.Jitter = *t.MaxLifetimeJitter
	}
	if t.MaxPending != 0 {
		cfg.MaxPending = t.MaxPending
	}
	if ka := t.KeepAlive; ka != nil {
		cfg.Idle.MaxIdle = orElse(ka.IdleConnTimeout, cfg.Idle.MaxIdle)
		if ka.MaxIdleConns != 0 {
			cfg.MaxIdle = ka.MaxIdleConns
		}
		if ka.MaxIdleConnsPerHost != 0 {
			cfg.MaxIdlePerPool = ka.MaxIdleConnsPerHost
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
	if ka := t.KeepAlive; ka != nil && ka.ProbeInterval > 0 {
		cfg.ProbeInterval = max(time.Duration(ka.ProbeInterval), firstProbe)
	}
	cfg.h2, cfg.h2c = t.http2(), slices.Contains(t.Versions, "h2c")
}
