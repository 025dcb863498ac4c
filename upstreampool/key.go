package upstreampool

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// key is what makes two connections interchangeable: a request travels on a
// connection only if every part is the same. Client certificate, ALPN list and
// trust belong to the whole transport.
type key struct {
	scheme  string // http or https
	network string // as in net.Dial
	addr    string // likewise
	sni     string // TLS server name; empty for http
	// certificate tells apart the client certificates that Caddy manages.
	certificate string
	h1          bool           // HTTP/2 is not negotiated
	proxy       string         // URL of the forward proxy, if any
	source      netip.AddrPort // announced by PROXY protocol, if enabled
}

// upstream returns the part of the key that learned state belongs to.
func (k key) upstream() upstreamKey {
	return upstreamKey{scheme: k.scheme, network: k.network, addr: k.addr, proxy: k.proxy}
}

// A target is where a request goes: the key, and what dialing it takes.
type target struct {
	key
	dial     reverseproxy.DialInfo
	address  string // host:port, for net/http
	proxyURL *url.URL
}

// Names of variables and context values that reverse_proxy uses towards its own
// transport. TestCaddyNames pins them.
const (
	dialInfoKey = caddy.CtxKey("reverse_proxy.dial_info")

	proxyProtocolVar = "reverse_proxy.proxy_protocol_info"
	proxyVar         = "reverse_proxy.proxy"
)

// target finds out where req goes. It runs on the goroutine of the request,
// whose variables it may use.
func (t *Transport) target(req *http.Request) (target, error) {
	var tg target
	tg.scheme = req.URL.Scheme
	di, ok := reverseproxy.GetDialInfo(req.Context())
	if !ok {
		host, port := req.URL.Hostname(), req.URL.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[tg.scheme]
		}
		di = reverseproxy.DialInfo{Network: "tcp", Host: host, Port: port, Address: net.JoinHostPort(host, port)}
	}
	di.Upstream = nil // not ours to keep
	tg.dial = di
	tg.network, tg.addr = di.Network, di.Address
	tg.address = di.Address
	unix := strings.HasPrefix(di.Network, "unix")
	if unix {
		// net/http wants host and port; the dialer takes the path.
		tg.address = "unix:0"
	}
	if tg.scheme == "https" {
		tg.sni = t.serverName(req, di)
		if t.TLS != nil && t.TLS.ClientCertificateAutomate != "" {
			tg.certificate = managedCertificate(t.TLS.ClientCertificateAutomate)
		}
	}
	// Only HTTP/1 can change protocols by Upgrade; h2c is by prior knowledge.
	tg.h1 = upgrades(req.Header)
	if !unix {
		u, err := t.core.proxy(req)
		if err != nil {
			return tg, fmt.Errorf("finding forward proxy for '%s': %w", di.Address, err)
		}
		if u != nil && t.core.sniHasPlaceholder && tg.scheme == "https" {
			// net/http does TLS inside the tunnel, with one name for all.
			return tg, fmt.Errorf("dialing '%s' through forward proxy '%s': tls_server_name '%s' must not have placeholders then",
				di.Address, u.Redacted(), t.TLS.ServerName)
		}
		if u != nil {
			tg.proxyURL, tg.proxy = u, u.String()
		}
	}
	if t.ProxyProtocol != "" {
		info, ok := caddyhttp.GetVar(req.Context(), proxyProtocolVar).(reverseproxy.ProxyProtocolInfo)
		if !ok {
			return tg, fmt.Errorf("getting PROXY protocol source for '%s': the request has none", di.Address)
		}
		tg.source = info.AddrPort
	}
	return tg, nil
}

// serverName returns the TLS server name for req: tls_server_name with its
// placeholders replaced, else the host that is dialed. Spellings of one name
// are one name.
func (t *Transport) serverName(req *http.Request, di reverseproxy.DialInfo) string {
	name := di.Host
	if t.TLS != nil && t.TLS.ServerName != "" {
		name = t.TLS.ServerName
		if t.core.sniHasPlaceholder {
			repl, _ := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			if repl != nil {
				name = repl.ReplaceAll(name, "")
			}
			if name == "" || repl == nil {
				// A health check has no request to take the name from.
				name = di.Host
			}
		}
	}
	if canonical, err := hostname.Parse(name); err == nil {
		return canonical
	}
	return name
}

// upgrades tells whether the request asks to change protocols on its
// connection (RFC 9110 section 7.8).
func upgrades(h http.Header) bool {
	return len(h["Upgrade"]) > 0 && httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
}

// withoutH2CUpgrade returns h without a request to change to HTTP/2, and whether
// there was one: that form of h2c is gone (RFC 9113 section 3.1), and it would
// make the upstream speak a protocol that neither we nor net/http expect. h
// itself stays as it is.
func withoutH2CUpgrade(h http.Header) (http.Header, bool) {
	if !httpguts.HeaderValuesContainsToken(h["Upgrade"], "h2c") {
		return h, false
	}
	c := make(http.Header, len(h))
	maps.Copy(c, h)
	delete(c, "Http2-Settings")
	protocols := slices.DeleteFunc(splitList(h["Upgrade"]), func(p string) bool { return strings.EqualFold(p, "h2c") })
	if len(protocols) > 0 {
		c["Upgrade"] = []string{strings.Join(protocols, ", ")}
		return c, true
	}
	delete(c, "Upgrade")
	options := slices.DeleteFunc(splitList(h["Connection"]), func(o string) bool {
		return strings.EqualFold(o, "upgrade") || strings.EqualFold(o, "http2-settings")
	})
	if len(options) > 0 {
		c["Connection"] = []string{strings.Join(options, ", ")}
	} else {
		delete(c, "Connection")
	}
	return c, true
}

func splitList(fields []string) []string {
	var list []string
	for _, field := range fields {
		for e := range strings.SplitSeq(field, ",") {
			if e = strings.Trim(e, " \t"); e != "" {
				list = append(list, e)
			}
		}
	}
	return list
}
