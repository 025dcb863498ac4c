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
	h1          bool           // HTTP/2 could be spoken, and must not
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
	host, port string // of addr, where it has them
	proxyURL   *url.URL
}

// info is the target as the dialer of reverse_proxy knows it.
func (tg *target) info() reverseproxy.DialInfo {
	return reverseproxy.DialInfo{Network: tg.network, Address: tg.addr, Host: tg.host, Port: tg.port}
}

// unix tells whether the target is a Unix socket.
func (tg *target) unix() bool { return strings.HasPrefix(tg.network, "unix") }

// address is the target as net/http wants it: host and port. For a Unix socket, the
// dialer takes the path.
func (tg *target) address() string {
	if tg.unix() {
		return "unix:0"
	}
	return tg.addr
}

// Names of variables and context values that reverse_proxy uses towards its own
// transport. TestCaddyNames pins them.
const (
	dialInfoKey = caddy.CtxKey("reverse_proxy.dial_info")

	proxyProtocolVar = "reverse_proxy.proxy_protocol_info"
	proxyVar         = "reverse_proxy.proxy"
)

// target finds out where req goes, and says so in tg. It runs on the goroutine of the
// request, whose variables it may use.
func (t *Transport) target(req *http.Request, tg *target) error {
	tg.scheme = req.URL.Scheme
	tg.dialed(req)
	if tg.scheme == "https" {
		tg.sni = t.serverName(req, tg.host)
		if t.TLS != nil && t.TLS.ClientCertificateAutomate != "" {
			tg.certificate = managedCertificate(t.TLS.ClientCertificateAutomate)
		}
	}
	if !tg.unix() {
		u, err := t.core.proxy(req)
		if err != nil {
			return fmt.Errorf("finding forward proxy for '%s': %w", tg.addr, err)
		}
		if u != nil && t.core.sniHasPlaceholder && tg.scheme == "https" {
			// net/http does TLS inside the tunnel, with one name for all.
			return fmt.Errorf("dialing '%s' through forward proxy '%s': tls_server_name '%s' must not have placeholders then",
				tg.addr, u.Redacted(), t.TLS.ServerName)
		}
		if u != nil {
			tg.proxyURL, tg.proxy = u, u.String()
		}
	}
	// Only HTTP/1 can change protocols by Upgrade. Where nothing else is spoken, such a
	// request travels like any other.
	tg.h1 = upgrades(req.Header) && t.core.maySpeakHTTP2(tg.key)
	if t.ProxyProtocol != "" {
		info, ok := caddyhttp.GetVar(req.Context(), proxyProtocolVar).(reverseproxy.ProxyProtocolInfo)
		if !ok {
			return fmt.Errorf("getting PROXY protocol source for '%s': the request has none", tg.addr)
		}
		tg.source = info.AddrPort
	}
	return nil
}

// dialed notes which address is dialed for req.
func (tg *target) dialed(req *http.Request) {
	if di, ok := reverseproxy.GetDialInfo(req.Context()); ok {
		tg.network, tg.addr, tg.host, tg.port = di.Network, di.Address, di.Host, di.Port
		return
	}
	tg.host, tg.port = req.URL.Hostname(), req.URL.Port()
	if tg.port == "" {
		tg.port = map[string]string{"http": "80", "https": "443"}[tg.scheme]
	}
	tg.network, tg.addr = "tcp", net.JoinHostPort(tg.host, tg.port)
}

// serverName returns the TLS server name for req: tls_server_name with its
// placeholders replaced, else the host that is dialed. Spellings of one name
// are one name.
func (t *Transport) serverName(req *http.Request, host string) string {
	name := host
	if t.TLS != nil && t.TLS.ServerName != "" {
		name = t.TLS.ServerName
		if t.core.sniHasPlaceholder {
			repl, _ := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			if repl != nil {
				name = repl.ReplaceAll(name, "")
			}
			if name == "" || repl == nil {
				// A health check has no request to take the name from.
				name = host
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
