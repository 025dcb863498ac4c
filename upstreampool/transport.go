package upstreampool

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// Transport is `transport http` with a connection pool of its own. It never
// picks an idle connection that the upstream is about to close, finds out by
// itself when that is, never sends a request on a connection that was opened
// for another TLS server name, and repeats a request only when that is safe.
//
// It has every option of `transport http`, with the same meaning, except that
// `keep_alive.idle_timeout` is an upper bound (as `max_idle_time` is),
// `keep_alive.max_idle_conns_per_host` is 1024 by default, since idle connections
// leave by age, and `keep_alive.max_idle_conns` is 10000, with -1 for no limit. Handlers
// with equal transport settings share their pools, and pools survive a reload that does
// not change them.
//
// These placeholders tell how a request travelled, once its response has begun or it
// has failed. With `lb_retries` the last try counts. There are none with HTTP/3.
//
// Placeholder | Description
// ------------|-------------
// `{http.upstreampool.connection}` | `new` (dialed) or `reused` (from the pool); empty, like all others, if there was none
// `{http.upstreampool.idle}` | For how long the connection had been idle
// `{http.upstreampool.wait}` | How long the request waited for it
// `{http.upstreampool.connect}` | How long a new connection took to open, TLS included
// `{http.upstreampool.limit_source}` | Where the idle limit of a reused connection came from
// `{http.upstreampool.replay}` | Why the request was sent again; empty if it was not
type Transport struct {
	*reverseproxy.HTTPTransport

	// The longest time that a connection may be idle and still be used,
	// whatever the upstream would allow. Must be less than
	// `upstream_keep_alive`, if that is set. Cannot be combined with
	// `keep_alive.idle_timeout`, which means the same. Default: `2m`.
	MaxIdleTime caddy.Duration `json:"max_idle_time,omitempty"`

	// When the upstream closes an idle connection: its keep-alive timeout, as
	// in its own configuration. Default (zero): found out from the Keep-Alive
	// header field (RFC 2068 section 19.7.1.1) and from the closes that happen.
	// Connections that the upstream is seen to close earlier than that, twice
	// at the same age, override the setting.
	UpstreamKeepAlive caddy.Duration `json:"upstream_keep_alive,omitempty"`

	// How far below the upstream's keep-alive timeout a connection is no
	// longer used. Must be less than `upstream_keep_alive`, if that is set.
	// Default (zero): twice the round-trip time plus 100 ms, but at least 5 %
	// of the timeout; more after requests that met a closing connection.
	Margin caddy.Duration `json:"margin,omitempty"`

	// How long a connection is used at all. One that carries a request then is
	// closed afterwards. Default (zero): unlimited.
	MaxLifetime caddy.Duration `json:"max_lifetime,omitempty"`

	// By how much `max_lifetime` is shortened at most, in percent, at random
	// for each connection, so that connections opened together do not end
	// together. From 0 (not at all) to 100. Default: 10.
	MaxLifetimeJitter *int `json:"max_lifetime_jitter,omitempty"`

	// How many requests a connection carries before it is closed. Default
	// (zero): unlimited.
	MaxRequests int `json:"max_requests,omitempty"`

	// How many requests may wait for a connection of a pool that is at
	// `max_conns_per_host`. Any more are answered with 503, or tried elsewhere
	// if `lb_retries` or `lb_try_duration` allow. Where passive health checks
	// count failures, that takes an expression in `lb_retry_match` as well, which
	// looks for `Proxy-Status: Caddy; error=connection_limit_reached`. Default
	// (zero): 1000.
	MaxPending int `json:"max_pending,omitempty"`

	// How long a request waits for a connection of a pool that is at
	// `max_conns_per_host`, before it is treated as with `max_pending`. The
	// time to open a connection is bounded by `dial_timeout` and
	// `tls.handshake_timeout` instead. Default (zero): `5s`.
	AcquireTimeout caddy.Duration `json:"acquire_timeout,omitempty"`

	// How many idle connections to keep open to each upstream, for an hour
	// after its last request, or for a minute where `dynamic_upstreams` found it;
	// they are replaced as they age. The first request
	// to an upstream starts it. Cannot be combined with `proxy_protocol` or with
	// placeholders in `tls.server_name`, which make connections of each client or
	// name their own, nor with placeholders of requests in the address of an upstream,
	// in `dynamic_upstreams` or in `network_proxy`. Default (zero): none.
	MinIdle int `json:"min_idle,omitempty"`

	// For how long an upstream may owe TCP an acknowledgement while a request waits
	// for its response. A connection is given up after that: what drops its packets
	// would have the request wait for a quarter of an hour. A request that may be
	// repeated is sent once more on a new connection, another one fails with 504.
	// Upstreams that take their time, read slowly, or stream nothing for hours do
	// acknowledge what they get. At least `1s`; on Linux only. Default (zero): `20s`.
	UnackedTimeout caddy.Duration `json:"unacked_timeout,omitempty"`

	// After how long without a frame an HTTP/2 connection is sent a PING (RFC 9113
	// section 6.7), whether it carries requests or not. Some servers, those of gRPC
	// by default, end connections that send PINGs often. Default (zero): never.
	PingInterval caddy.Duration `json:"ping_interval,omitempty"`

	// How long the answer to a PING may take, before the connection is closed. Needs
	// `ping_interval`. Default (zero): `15s`.
	PingTimeout caddy.Duration `json:"ping_timeout,omitempty"`

	// Whether to keep what was learned about upstreams in Caddy's storage, so that
	// it outlives the process: for each instance of Caddy by itself, and only for
	// upstreams that the configuration names without placeholders, at most 500.
	// Values older than a day are hints. Default: true.
	Remember *bool `json:"remember,omitempty"`

	// How often the name of an upstream is looked up again while there are
	// connections to it. Those to an address that is no longer among the answers
	// get no more requests, as soon as another address has answered one. It applies
	// to names that stand in the configuration, not through a forward proxy. At least
	// `10ms`; -1 turns it off. Default (zero): `30s`.
	FollowDNS caddy.Duration `json:"follow_dns,omitempty"`

	core *core
	key  *coreKey
	user *user
	h3   bool

	server *caddyhttp.Server // that tells of its connections; nil: nobody does

	// These belong to the reverse_proxy around the transport, so they are no part of the
	// core, which several may share.
	answersRefusals, triesResponses bool
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.upstreampool",
		New: func() caddy.Module { return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)} },
	}
}

// Provision sets up t.
func (t *Transport) Provision(ctx caddy.Context) error {
	if t.HTTPTransport == nil {
		t.HTTPTransport = new(reverseproxy.HTTPTransport)
	}
	handler := enclosing(ctx)
	// Provisioning the embedded transport changes its settings and wipes the
	// raw parts of them, so look at them first.
	if err := t.check(handler); err != nil {
		return err
	}
	settings, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encoding transport settings: %w", err)
	}
	cfg := t.config()
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	t.complete(&cfg)
	if t.h3 = t.http3(); t.h3 {
		return nil
	}
	t.server = watchClients(ctx)
	t.answersRefusals, t.triesResponses = countsFailures(handler), triesResponses(handler)
	t.warnOfPressure(handler, ctx.Logger())
	if reg := ctx.GetMetricsRegistry(); reg != nil {
		if err := registerMetrics(reg); err != nil {
			return err
		}
	}
	fresh := t.newCore(cfg)
	provisioning.Lock()
	defer provisioning.Unlock()
	k := keyFor(settingsHash(settings, fresh.tls), fresh)
	fresh.id = k.String()
	v, _, err := pools.LoadOrNew(k, func() (caddy.Destructor, error) { return fresh, nil })
	if err != nil {
		return err
	}
	t.core, t.key, t.user = v.(*core), &k, &user{logger: ctx.Logger(), sites: sitesOf(ctx)}
	if handler != nil {
		t.user.addresses, t.user.dynamic = addressesOf(handler), handler.DynamicUpstreamsRaw != nil
	}
	if handler != nil && cfg.remember {
		t.user.releaseStorage = remembered.Use(ctx.Storage())
	}
	t.core.users.join(t.user)
	t.core.group.Renew()
	return nil
}

// Cleanup gives up the pools; the last transport to do so closes them.
func (t *Transport) Cleanup() error {
	if t.server != nil {
		watched.Delete(t.server)
	}
	if t.key != nil {
		if _, err := pools.Delete(*t.key); err != nil {
			return err
		}
		t.key = nil // t.core stays: requests may still be under way
		t.core.users.leave(t.user)
		t.core.group.Renew()
	}
	if t.HTTPTransport == nil {
		return nil
	}
	return t.HTTPTransport.Cleanup()
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.setScheme(req)
	if t.h3 {
		return t.HTTPTransport.RoundTrip(req)
	}
	x := exchange{core: t.core, ctx: req.Context(), req: req, out: req, triesResponses: t.triesResponses}
	if err := t.target(req, &x.tg); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	resp, err := x.roundTrip()
	if err != nil && t.answersRefusals {
		if refused := refusal(req, err, x.body.Failed()); refused != nil {
			return refused, nil
		}
	}
	return resp, err
}

// setScheme sets the scheme of the request's URL, as the embedded transport
// does; with PROXY protocol, the URL it goes by does not hold the port.
func (t *Transport) setScheme(req *http.Request) {
	if req.URL.Scheme == "" && t.TLS != nil && len(t.TLS.ExceptPorts) > 0 {
		di, ok := reverseproxy.GetDialInfo(req.Context())
		if ok && slices.Contains(t.TLS.ExceptPorts, di.Port) {
			req.URL.Scheme = "http"
			return
		}
	}
	t.SetScheme(req)
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
