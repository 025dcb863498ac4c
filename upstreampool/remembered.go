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
	func(f remember.Failure) {
		text := "what is learned about upstreams is not kept in the storage"
		if f.Invalid {
			text = "what is remembered of an upstream is invalid"
		}
		caddy.Log().Named("http.reverse_proxy.transport.upstreampool").Warn(text,
			zap.String("upstream", f.Upstream.Address), zap.String("protocol", f.Upstream.Protocol), zap.Error(f.Err))
	},
	func(write, failed bool) { storageCounter(write, failed).Inc() })

// An address is where the configuration says that an upstream is.
type address struct{ network, addr string }

// addressesOf returns the upstreams that a reverse_proxy names. Those with
// placeholders are left out, since clients may choose them, but for placeholders
// that have no request, such as {env.*}.
func addressesOf(h *reverseproxy.Handler) []address {
	var named []address
	repl := caddy.NewReplacer()
	for _, u := range h.Upstreams {
		dial := repl.ReplaceKnown(u.Dial, "")
		if strings.Contains(dial, "{") {
			continue
		}
		if a, err := caddy.ParseNetworkAddress(dial); err == nil && a.PortRangeSize() == 1 {
			named = append(named, address{a.Network, a.JoinHostPort(0)})
		}
	}
	return named
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
