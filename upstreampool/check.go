package upstreampool

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A check collects what is wrong with settings, to tell it all at once.
type check struct {
	*Transport
	handler *reverseproxy.Handler // around it; nil: that is not known
	errs    []error
}

// check refuses settings that cannot mean what they say, in the reverse_proxy given.
func (t *Transport) check(h *reverseproxy.Handler) error {
	c := check{Transport: t, handler: h}
	c.bounds()
	c.effects()
	c.keepAlive()
	c.minIdle()
	c.silence()
	return errors.Join(c.errs...)
}

func (c *check) refuse(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("checking "+format, args...))
}

// outOfBounds says why d is refused; "" if it is not.
func (o *option) outOfBounds(d time.Duration) string {
	switch {
	case d == 0, o.canBeOff && d == -1, d > 0 && d >= o.least:
		return ""
	case d < 0 && o.canBeOff:
		return "must not be negative, but for -1, which turns it off"
	case d < 0:
		return "must not be negative"
	case o.canBeOff:
		return fmt.Sprintf("must be at least %s, or off", o.least)
	}
	return fmt.Sprintf("must be at least %s%s", o.least, o.whyNotLess)
}

// bounds checks each setting by itself.
func (c *check) bounds() {
	for _, o := range options {
		switch field := o.field(c.Transport).(type) {
		case *caddy.Duration:
			d := time.Duration(*field)
			if why := o.outOfBounds(d); why != "" {
				c.refuse("%s '%s': %s", o.name, d, why)
			}
		case *int:
			if *field < 0 {
				c.refuse("%s '%d': must not be negative", o.name, *field)
			}
		}
	}
	if j := c.MaxLifetimeJitter; j != nil {
		if *j < 0 || *j > 100 {
			c.refuse("max_lifetime_jitter '%d': must be from 0 to 100 percent", *j)
		}
		if c.MaxLifetime == 0 {
			c.refuse("max_lifetime_jitter '%d': needs a max_lifetime", *j)
		}
	}
	if r := c.Resolver; r != nil && len(r.Addresses) == 0 {
		c.refuse("resolver: must have at least one address, leave it out for those of the system")
	}
	if ka := c.KeepAlive; ka != nil {
		if ka.IdleConnTimeout < 0 {
			c.refuse("keepalive '%s': must not be negative", time.Duration(ka.IdleConnTimeout))
		}
		if ka.MaxIdleConns < -1 {
			c.refuse("keepalive_idle_conns '%d': must be a number of connections, or -1 for no limit", ka.MaxIdleConns)
		}
	}
}

// effects refuses what is set and would be ignored.
func (c *check) effects() {
	for _, o := range options {
		value := o.value(c.Transport)
		switch why := c.noReuse(); {
		case value == "":
		case c.http3():
			c.refuse("%s '%s': versions 3 leaves requests to transport http, which does not know it", o.name, value)
		case o.needsReuse && why != "":
			c.refuse("%s '%s': %s", o.name, value, why)
		}
	}
}

// value returns what the option is set to; "" if that is nothing, or off.
func (o *option) value(t *Transport) string {
	switch field := o.field(t).(type) {
	case *caddy.Duration:
		if *field > 0 {
			return time.Duration(*field).String()
		}
	case *int:
		if *field > 0 {
			return strconv.Itoa(*field)
		}
	}
	return ""
}

// noReuse says why no connection is reused; "" if they are.
func (t *Transport) noReuse() string {
	switch ka := t.KeepAlive; {
	case ka == nil:
	case ka.Enabled != nil && !*ka.Enabled:
		return "keepalive is off"
	case ka.MaxIdleConnsPerHost < 0:
		return fmt.Sprintf("keepalive_idle_conns_per_host '%d' means that no connection is reused", ka.MaxIdleConnsPerHost)
	}
	return ""
}

// http2 tells whether HTTP/2 can be spoken.
func (t *Transport) http2() bool {
	return len(t.Versions) == 0 || slices.Contains(t.Versions, "2") || slices.Contains(t.Versions, "h2c")
}

// http3 tells whether HTTP/3 is spoken, which is not ours.
func (t *Transport) http3() bool { return len(t.Versions) == 1 && t.Versions[0] == "3" }

// keepAlive checks the times that connections may be idle against each other.
func (c *check) keepAlive() {
	maxIdle, name := c.MaxIdleTime, "max_idle_time"
	if ka := c.KeepAlive; ka != nil && ka.IdleConnTimeout != 0 {
		if maxIdle != 0 {
			c.refuse("max_idle_time '%s': keepalive '%s' means the same, set one of them",
				time.Duration(maxIdle), time.Duration(ka.IdleConnTimeout))
		}
		maxIdle, name = ka.IdleConnTimeout, "keepalive"
	}
	k := c.UpstreamKeepAlive
	if k <= 0 {
		return
	}
	if maxIdle >= k {
		c.refuse("%s '%s': must be less than upstream_keep_alive '%s'", name, time.Duration(maxIdle), time.Duration(k))
	}
	switch {
	case c.Margin >= k:
		c.refuse("margin '%s': must be less than upstream_keep_alive '%s'", time.Duration(c.Margin), time.Duration(k))
	case 2*c.Margin > k:
		c.refuse("margin '%s': must be at most half of upstream_keep_alive '%s', or no connection would be reused",
			time.Duration(c.Margin), time.Duration(k))
	}
}

// minIdle checks min_idle against what limits connections. It keeps them to each
// key there is, so keys that clients choose would have it dial for clients that
// are long gone.
func (c *check) minIdle() {
	n := c.MinIdle
	if n <= 0 {
		return
	}
	if c.ProxyProtocol != "" {
		c.refuse("min_idle '%d': proxy_protocol '%s' makes a connection of each client's address its own", n, c.ProxyProtocol)
	}
	if c.TLS != nil && strings.Contains(c.TLS.ServerName, "{") {
		c.refuse("min_idle '%d': tls_server_name '%s' makes connections of each name their own", n, c.TLS.ServerName)
	}
	for _, d := range c.destinations() {
		if p := ofRequest(d[1]); p != "" {
			c.refuse("min_idle '%d': %s with '%s' makes connections to where each request says", n, d[0], p)
		}
	}
	cfg := c.config()
	for _, most := range []struct {
		name  string
		value int
	}{
		{"max_conns_per_host", cfg.MaxConns},
		{"keepalive_idle_conns", cfg.MaxIdle},
		{"keepalive_idle_conns_per_host", cfg.MaxIdlePerPool},
	} {
		if most.value > 0 && n > most.value {
			c.refuse("min_idle '%d': must be at most %s '%d'", n, most.name, most.value)
		}
	}
}

// destinations returns the settings that say where connections go, with their names.
func (c *check) destinations() [][2]string {
	all := [][2]string{{"network_proxy", string(c.NetworkProxyRaw)}, {"forward_proxy_url", c.ForwardProxyURL}}
	if c.handler == nil {
		return all
	}
	for _, u := range c.handler.Upstreams {
		all = append(all, [2]string{"upstream", u.Dial})
	}
	return append(all, [2]string{"dynamic", string(c.handler.DynamicUpstreamsRaw)})
}

var placeholders = regexp.MustCompile(`\{[\w.:/-]+\}`)

// ofRequest returns the first placeholder in a setting whose value comes with a request;
// "" if there is none. Others, such as {env.*}, have one at any time.
func ofRequest(setting string) string {
	repl := caddy.NewReplacer()
	for _, p := range placeholders.FindAllString(setting, -1) {
		if repl.ReplaceKnown(p, "") == p {
			return p
		}
	}
	return ""
}

// silence checks the settings of what is done about upstreams that answer nothing.
func (c *check) silence() {
	if p := c.PingTimeout; p > 0 && c.PingInterval == 0 {
		c.refuse("ping_timeout '%s': needs a ping_interval", time.Duration(p))
	}
	if i := c.PingInterval; i > 0 && !c.http2() {
		c.refuse("ping_interval '%s': versions '%s' has no HTTP/2", time.Duration(i), strings.Join(c.Versions, " "))
	}
}
