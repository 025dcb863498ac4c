package upstreampool

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/remember"
)

// remembered keeps what all transports learn beyond the process.
var remembered = remember.New(
	func() (string, error) {
		id, err := caddy.InstanceID()
		return id.String(), err
	},
	func(err error) {
		caddy.Log().Named("http.reverse_proxy.transport.upstreampool").Warn(
			"what is learned about upstreams is not kept in the storage", zap.Error(err))
	})

// An address is where the configuration says that an upstream is.
type address struct{ network, addr string }

// addressesOf returns the upstreams that a reverse_proxy names. Those with
// placeholders are left out: clients may choose them.
func addressesOf(h *reverseproxy.Handler) []address {
	var named []address
	for _, u := range h.Upstreams {
		if strings.Contains(u.Dial, "{") {
			continue
		}
		if a, err := caddy.ParseNetworkAddress(u.Dial); err == nil && a.PortRangeSize() == 1 {
			named = append(named, address{a.Network, a.JoinHostPort(0)})
		}
	}
	return named
}

// remembersFor has what is learned about the upstreams of a reverse_proxy kept in
// the storage of its configuration, until the user leaves.
func (u *user) remembersFor(ctx caddy.Context, h *reverseproxy.Handler) {
	u.addresses = addressesOf(h)
	u.releaseStorage = remembered.Use(ctx.Storage())
}

// remember has what is learned about u remembered, if the configuration names it.
func (c *core) remember(u *upstream) {
	k := u.key
	if !c.cfg.remember || !c.users.name(address{k.network, k.addr}) {
		return
	}
	for _, h2 := range []bool{false, true} {
		remembered.Remember(remember.Key{
			Scheme: k.scheme, Network: k.network, Address: k.addr, Proxy: k.proxy, Protocol: protocolName(h2),
		}, u.Learner(h2))
	}
}
