package command

import (
	"cmp"
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	auth "github.com/caddy-connreuse/connreuse/internal/authority"
)

// A healthCheck is an active health check of one upstream, as a reverse_proxy sends it.
type healthCheck struct {
	transport map[string]any
	dial      string // where it connects to
	host      string // its Host field
	tls       bool
	sni       string // as Caddy sends it; empty: none
	// unresolved: tls_server_name has placeholders, which stand for nothing without
	// a request, and the transport takes no other name.
	unresolved bool
}

// healthChecks goes through the active health checks of a config.
func (c *checked) healthChecks(yield func(healthCheck) bool) {
	for handler := range objects(c.apps) {
		active, _ := at(handler, "health_checks", "active").(map[string]any)
		// What switches it on, as [reverseproxy.ActiveHealthChecks.IsEnabled] says.
		if handler["handler"] != "reverse_proxy" || active["uri"] == nil && active["path"] == nil && active["port"] == nil {
			continue
		}
		upstreams, _ := handler["upstreams"].([]any)
		for _, upstream := range upstreams {
			dial, _ := at(upstream, "dial").(string)
			if h, ok := newHealthCheck(handler, active, dial); ok && !yield(h) {
				return
			}
		}
	}
}

// newHealthCheck tells what Caddy sends to check an upstream.
func newHealthCheck(handler, active map[string]any, dial string) (h healthCheck, ok bool) {
	other, _ := active["upstream"].(string)
	address, err := caddy.ParseNetworkAddress(cmp.Or(other, dial))
	if err != nil || address.PortRangeSize() != 1 || strings.Contains(dial+other, "{") {
		return h, false
	}
	if port, ok := active["port"].(json.Number); ok && other == "" {
		number, _ := port.Int64()
		address.Network, address.StartPort, address.EndPort = "tcp", uint(number), uint(number)
	}
	h.transport, _ = handler["transport"].(map[string]any)
	h.dial, h.host = address.String(), address.JoinHostPort(0)
	if address.IsUnixNetwork() {
		h.host, address.Host = "localhost", ""
	}
	repl := caddy.NewReplacer()
	repl.Set("http.reverse_proxy.active.target_upstream", dial)
	headers, _ := active["headers"].(map[string]any)
	for name, values := range headers {
		if list, _ := values.([]any); strings.EqualFold(name, "Host") && len(list) > 0 {
			host, _ := list[0].(string)
			h.host = repl.ReplaceAll(host, "")
		}
	}
	h.secure(address)
	return h, true
}

// secure tells whether a check of an address goes over TLS, and by which name.
func (h *healthCheck) secure(address caddy.NetworkAddress) {
	settings, ok := h.transport["tls"].(map[string]any)
	except, _ := settings["except_ports"].([]any)
	h.tls = ok && !slices.Contains(except, any(strconv.FormatUint(uint64(address.StartPort), 10)))
	h.sni = address.Host
	if name, _ := settings["server_name"].(string); name != "" {
		h.sni = caddy.NewReplacer().ReplaceAll(name, "")
		h.unresolved = h.sni == ""
	}
	if h.unresolved && h.transport["protocol"] == "upstreampool" {
		h.sni, h.unresolved = address.Host, false
	}
	if _, err := netip.ParseAddr(h.sni); err == nil {
		h.sni = "" // an address is no server name (RFC 6066 section 3)
	}
}

// refusedChecks finds active health checks of this configuration by itself that are
// refused: their Host is not the name that the connection was opened for. The upstream
// is down for as long as Caddy runs.
func (c *checked) refusedChecks() (found []finding) {
	for h := range c.healthChecks {
		if !h.tls || h.unresolved {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(c.servers)) {
			if !c.listens(name, h.dial) {
				continue
			}
			if answer, why := c.answer(name, h.sni, h.host); answer != "pass" {
				found = append(found, finding{Server: name, Module: "check",
					Message: "an active health check gets " + answer + " from this server: " + why + "; let tls_server_name of the transport and Host in health_headers be one site's name",
					Details: map[string]any{"upstream": h.dial, "sni": h.sni, "host": h.host}})
			}
		}
	}
	return found
}

// answer says what becomes of a request to a server with TLS.
func (c *checked) answer(server, sni, host string) (answer, why string) {
	if s := c.app.Server(server); s != nil {
		if e := s.Explain(sni, host); e.Answer == "421" || e.Answer == "400" {
			return e.Answer, e.Why
		}
	} else if auth.StrictSNIHostRefuses(c.servers[server], sni, host) {
		return "421", "strict_sni_host is on, and the host is not the SNI"
	}
	return "pass", ""
}

// listens tells whether a server with TLS listens at an address. One on all addresses
// of this machine does for those that are certainly of this machine.
func (c *checked) listens(server, dial string) bool {
	to, err := caddy.ParseNetworkAddress(dial)
	if err != nil || len(c.servers[server].TLSConnPolicies) == 0 {
		return false
	}
	local := to.Host == "localhost" || net.ParseIP(to.Host).IsLoopback()
	return slices.ContainsFunc(c.servers[server].Listen, func(text string) bool {
		at, err := caddy.ParseNetworkAddress(text)
		switch {
		case err != nil || at.IsUnixNetwork() != to.IsUnixNetwork():
			return false
		case at.IsUnixNetwork():
			return at.Host == to.Host
		}
		here := at.Host == to.Host || local && (at.Host == "" || net.ParseIP(at.Host).IsUnspecified() || at.Host == "localhost")
		return here && at.StartPort <= to.StartPort && to.StartPort <= at.EndPort
	})
}

// unresolvedChecks finds active health checks whose server name comes from a request,
// which they are not made for. Caddy's own transport then has no name to check the
// certificate with, and gives up.
func (c *checked) unresolvedChecks() (found []finding) {
	for h := range c.healthChecks {
		if insecure, _ := at(h.transport, "tls", "insecure_skip_verify").(bool); !h.tls || !h.unresolved || insecure {
			continue
		}
		found = append(found, finding{Module: "check",
			Message: "active health checks fail in the TLS handshake: tls_server_name has placeholders of a request, and a health check has none; " +
				"with transport upstreampool it takes the host that is dialed",
			Details: map[string]any{"upstream": h.dial, "tls_server_name": at(h.transport, "tls", "server_name")}})
	}
	return found
}

// sourcelessChecks finds active health checks that should announce a client's address.
// They have none, and no transport of Caddy sends them.
func (c *checked) sourcelessChecks() (found []finding) {
	for h := range c.healthChecks {
		if version, _ := h.transport["proxy_protocol"].(string); version != "" {
			found = append(found, finding{Module: "check",
				Message: "active health checks fail before they are sent: with proxy_protocol each connection begins with a client's address, and a health check has none; use passive health checks",
				Details: map[string]any{"upstream": h.dial, "proxy_protocol": version}})
		}
	}
	return found
}

// namelessChecks finds servers on which a load balancer's health check in HTTP/1.0
// without Host and SNI, as HAProxy sends it by default, is refused although there is
// a site for it.
func (c *checked) namelessChecks() (found []finding) {
	for _, name := range slices.Sorted(maps.Keys(c.servers)) {
		server := c.app.Server(name)
		if server == nil || !server.HasTLS() || !server.Guarded() {
			continue
		}
		if e := server.Explain("", ""); e.Answer == "400" && e.HostSite != "none" {
			found = append(found, finding{Server: name, Module: "check",
				Message: "health checks in HTTP/1.0 without Host, as load balancers send them, get 400 from misdirected: " +
					"what answers them depends on a name; have the load balancer send a site's name as Host and SNI",
				Details: map[string]any{"site": e.HostSite}})
		}
	}
	return found
}
