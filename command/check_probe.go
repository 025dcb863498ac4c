package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// stockKeepAlive is for how long Caddy's own transport keeps an idle connection by
// default.
const stockKeepAlive = 2 * time.Minute

// A proxied is an upstream as a reverse_proxy handler of a config keeps connections to
// it.
type proxied struct {
	address    string
	transport  string
	tls        bool
	serverName string
	keepAlive  time.Duration // for how long an idle connection is kept; 0: for none
}

// key is what makes two of them the same question.
func (p proxied) key() string { return fmt.Sprint(p) }

// probe asks the upstreams of a config for the timeouts that they announce.
func probe(ctx context.Context, c *checked, timeout time.Duration) (found []finding, notes []string) {
	asked := make(map[string]bool)
	d := &dialer{timeout: timeout, insecure: true, lookup: net.DefaultResolver.LookupNetIP, dial: new(net.Dialer).DialContext}
	for p := range c.upstreams {
		if asked[p.key()] || p.keepAlive <= 0 {
			continue
		}
		asked[p.key()] = true
		announced, roundTrip, err := d.announced(ctx, p)
		switch {
		case err != nil:
			notes = append(notes, fmt.Sprintf("the upstream '%s' could not be asked: %v", p.address, err))
		case announced == 0:
			// It may close idle connections all the same; keepalive measures when.
		default:
			if limit := idletime.DefaultLimit(announced, roundTrip); p.keepAlive > limit.Value {
				found = append(found, p.tooLong(announced, limit))
			}
		}
	}
	return found, notes
}

func (p proxied) tooLong(announced time.Duration, limit idletime.Limit) finding {
	option, advice := "keepalive", duration(limit.Value.Truncate(10*time.Millisecond))
	if p.transport == "upstreampool" {
		option, advice = "upstream_keep_alive", duration(announced)
	}
	if limit.Value <= 0 {
		option, advice = "keepalive", "off"
	}
	return finding{
		Module: "check",
		Message: fmt.Sprintf("a reverse_proxy keeps idle connections for longer than the upstream announces, so requests meet connections that are being closed; "+
			"write '%s %s', or use transport upstreampool without it", option, advice),
		Details: map[string]any{"upstream": p.address, "transport": p.transport, "kept": duration(p.keepAlive), "announced": duration(announced)},
	}
}

// announced asks an upstream, and returns the timeout that it announces, 0 if none,
// and how long connecting took.
func (d *dialer) announced(ctx context.Context, p proxied) (timeout, roundTrip time.Duration, err error) {
	t, err := p.target()
	if err != nil {
		return 0, 0, err
	}
	c, err := d.open(ctx, t)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.interrupt)()
	s, err := c.speak()
	if err != nil {
		return 0, 0, err
	}
	a, err := s.get(t, new(page))
	if err != nil {
		return 0, 0, err
	}
	timeout, _ = idletime.AnnouncedTimeout(a.header)
	return timeout, c.roundTrip, nil
}

// target is where to ask.
func (p proxied) target() (target, error) {
	address, err := caddy.ParseNetworkAddress(p.address)
	if err != nil {
		return target{}, err
	}
	switch {
	case address.Network == "unix":
		return parseTarget("unix/" + address.Host)
	case address.Network != "tcp" || address.PortRangeSize() != 1:
		return target{}, errors.New("it is no TCP address or unix socket")
	case p.tls:
		t, err := parseTarget("https://" + address.JoinHostPort(0))
		t.sni = p.serverName
		return t, err
	default:
		return parseTarget("http://" + address.JoinHostPort(0))
	}
}

// upstreams goes through the upstreams that the reverse_proxy handlers of a config
// name. Those with placeholders are known only with a request.
func (c *checked) upstreams(yield func(proxied) bool) {
	for handler := range objects(c.apps) {
		if handler["handler"] != "reverse_proxy" {
			continue
		}
		p := transportOf(handler)
		list, _ := handler["upstreams"].([]any)
		for _, upstream := range list {
			p.address, _ = at(upstream, "dial").(string)
			if p.address != "" && !strings.Contains(p.address, "{") && !yield(p) {
				return
			}
		}
	}
}

// transportOf reads what the transport of a reverse_proxy handler says of idle
// connections. HTTP/2 without TLS and HTTP/3 announce no timeouts.
func transportOf(handler map[string]any) proxied {
	p := proxied{transport: "http", keepAlive: stockKeepAlive}
	transport, _ := handler["transport"].(map[string]any)
	if name, ok := transport["protocol"].(string); ok {
		p.transport = name
	}
	if settings, ok := transport["tls"].(map[string]any); ok {
		p.tls = true
		if name, _ := settings["server_name"].(string); !strings.Contains(name, "{") {
			p.serverName = name
		}
	}
	versions, _ := transport["versions"].([]any)
	idle := at(transport, "keep_alive", "idle_timeout")
	switch enabled, set := at(transport, "keep_alive", "enabled").(bool); {
	case p.transport == "upstreampool":
		// It believes what is announced, unless it is told otherwise.
		p.keepAlive, idle = 0, transport["upstream_keep_alive"]
	case p.transport != "http", set && !enabled, slices.Contains(versions, any("h2c")), slices.Contains(versions, any("3")):
		p.keepAlive, idle = 0, nil
	}
	if d, ok := durationOf(idle); ok {
		p.keepAlive = d
	}
	return p
}

// durationOf reads a duration of Caddy's JSON: a number of nanoseconds, or text.
func durationOf(v any) (time.Duration, bool) {
	text, err := json.Marshal(v)
	var d caddy.Duration
	if v == nil || err != nil || d.UnmarshalJSON(text) != nil || d == 0 {
		return 0, false
	}
	return time.Duration(d), true
}
