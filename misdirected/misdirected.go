// Package misdirected is an HTTP handler that refuses requests which came over
// a connection that is not right for them.
package misdirected

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler answers 421 Misdirected Request (RFC 9110 section 15.5.20) when the
// host of a request lies outside what the SNI of its TLS connection allows, so
// that the client asks again on a connection of its own. Clients reuse a
// connection for another host when its certificate covers that one too (RFC
// 9113 section 9.1.1), though the server may have chosen a TLS policy, a
// client-certificate rule or a backend by SNI.
//
// A host that equals the SNI always passes. Requests that no other connection
// could help either (no host, an invalid one, two different ones) get 400.
// Refusals go through Caddy's error handling, so `handle_errors` sees them; they
// carry `Cache-Control: no-store`, no `Alt-Svc`, and leave the connection open.
//
// Caddy's own `strict_sni_host`, which Caddy turns on by itself as soon as a TLS
// policy of the server asks for client certificates, answers before any handler
// runs: set it to `insecure_off` on servers where this handler is to decide.
//
// These placeholders are available to the handlers behind it and to error
// routes:
//
// Placeholder | Description
// ------------|-------------
// `{http.misdirected.sni}` | The server name of the connection, as the client sent it
// `{http.misdirected.host}` | The host that was decided on: lower case, without port and trailing dot
// `{http.misdirected.reason}` | Why the request passed or was refused, one word of a closed list
type Handler struct {
	// What a request may ask for besides the host that equals the SNI.
	//
	// `sni` is nothing more.
	//
	// `site` is any host that Caddy routes to the same site as the SNI and that
	// has the same TLS connection policy (the Kubernetes Gateway API's rule for
	// listeners).
	//
	// `certificate` is any host that the certificate presented for the SNI
	// covers and that has the same TLS connection policy (RFC 9110 section 7.4,
	// short of crossing a client-certificate rule).
	//
	// Default: `sni`.
	Scope Scope `json:"scope,omitempty"`

	// Groups of exact host names. On a connection for one name of a group,
	// requests for the others pass, whatever the scope. This may cross from one
	// TLS policy to another, which is warned about at start. A name may be in
	// one group only. Default: none.
	Share [][]string `json:"share,omitempty"`

	// What to do with connections without SNI, such as those of health checks
	// and of clients that ask for an IP address.
	//
	// `same_policy` lets requests pass whose host has the TLS connection policy
	// that the connection got; what selects a certificate by name is set aside.
	//
	// `accept` lets all pass, `reject` none.
	//
	// Default: `same_policy`.
	MissingSNI MissingSNI `json:"missing_sni,omitempty"`

	// IP addresses or CIDR ranges of gateways that are trusted to send each
	// request over a connection of their choice (RFC 9110 section 7.4). What
	// counts is the other end of the TLS connection, never a header field.
	// Default: none.
	TrustedGateways []string `json:"trusted_gateways,omitempty"`

	// Decide, count and log the same, but let every request pass. Default:
	// false.
	ReportOnly bool `json:"report_only,omitempty"`

	gate     gate
	guard    *authority.Guard
	server   *authority.Server
	counters *counters
	logger   *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.misdirected",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Scope is a value of [Handler.Scope].
type Scope string

// The scopes.
const (
	ScopeSNI         Scope = "sni"
	ScopeSite        Scope = "site"
	ScopeCertificate Scope = "certificate"
)

// MissingSNI is a value of [Handler.MissingSNI].
type MissingSNI string

// What to do with connections without SNI.
const (
	MissingSNISamePolicy MissingSNI = "same_policy"
	MissingSNIAccept     MissingSNI = "accept"
	MissingSNIReject     MissingSNI = "reject"
)

// Provision checks the configuration, all of it, and sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	var err error
	if h.gate, err = h.compile(); err != nil {
		return err
	}
	if h.server, err = authority.ForServer(ctx); err != nil {
		return err
	}
	h.guard = &authority.Guard{
		Accepts:    h.gate.accepts,
		Scope:      authority.Scope(h.gate.scope),
		ReportOnly: h.ReportOnly,
		Lenient:    h.lenient(),
		Share:      h.Share,
		Explain:    h.explain,
	}
	h.server.AddGuard(h.guard)
	h.counters, err = newCounters(ctx.GetMetricsRegistry(), h.server.Name())
	return err
}

// compile reads the configuration and returns all that is wrong with it.
func (h *Handler) compile() (gate, error) {
	g := gate{scope: h.Scope, missing: h.MissingSNI, groups: make(map[string]int)}
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch g.scope {
	case "":
		g.scope = ScopeSNI
	case ScopeSNI, ScopeSite, ScopeCertificate:
	default:
		fail("reading scope '%s': must be sni, site or certificate", g.scope)
	}
	switch g.missing {
	case "":
		g.missing = MissingSNISamePolicy
	case MissingSNISamePolicy, MissingSNIAccept, MissingSNIReject:
	default:
		fail("reading missing_sni '%s': must be same_policy, accept or reject", g.missing)
	}
	for i, group := range h.Share {
		if len(group) < 2 {
			fail("reading share group %v: must have at least two names", group)
		}
		for _, text := range group {
			name, err := hostname.ParseName(text)
			switch {
			case err != nil:
				fail("reading share name '%s': must be an exact host name: %v", text, err)
			case g.groups[name] == i+1:
				fail("reading share name '%s': it is in its group twice", text)
			case g.groups[name] != 0:
				fail("reading share name '%s': it is in another group too", text)
			default:
				g.groups[name] = i + 1
			}
		}
	}
	for _, text := range h.TrustedGateways {
		prefix, err := caddyhttp.CIDRExpressionToPrefix(text)
		if err != nil {
			fail("reading trusted_gateways '%s': must be an IP address or a CIDR range: %v", text, err)
			continue
		}
		g.gateways = append(g.gateways, unmapped(prefix))
	}
	return g, errors.Join(errs...)
}

// unmapped turns a range of IPv4-mapped addresses into the IPv4 range, since
// that is what peers are compared as.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// lenient names the options that let requests pass whatever their TLS policy.
func (h *Handler) lenient() (options []string) {
	if h.ReportOnly {
		options = append(options, "report_only")
	}
	if len(h.TrustedGateways) > 0 {
		options = append(options, "trusted_gateways")
	}
	if h.MissingSNI == MissingSNIAccept {
		options = append(options, "missing_sni accept")
	}
	return options
}

// Guard is for package authority.
func (h *Handler) Guard() *authority.Guard { return h.guard }

// ServeHTTP implements caddyhttp.MiddlewareHandler. It must need little of the
// stack, for that stays in use while the next handler runs: each HTTP/2 request
// begins with a small one, and to grow it costs more than the decision.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if err := h.judge(w, r); err != nil {
		return err
	}
	return next.ServeHTTP(w, r)
}

// judge decides on a request, makes that known, and returns the error to refuse
// it with, if any.
func (h *Handler) judge(w http.ResponseWriter, r *http.Request) error {
	req := read(r)
	reason, host := h.gate.decide(h.server.Snapshot(), &req)
	refused := reason.Status() != 0

	out := reasons[reason].outcome
	if refused && h.ReportOnly {
		out = reported
	}
	h.counters.count(r.ProtoMajor, out)

	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	v := verdict{req.sni, host, reason}
	repl.Map(v.placeholder)
	if !refused {
		return nil
	}
	// Another guard may have passed the request before; this goes before that.
	for _, key := range placeholders {
		value, _ := v.placeholder(key)
		repl.Set(key, value)
	}
	h.log(r, v)
	recent.add(Refusal{
		Time:       time.Now(),
		Server:     h.server.Name(),
		SNI:        v.sni,
		Host:       v.host,
		RemoteAddr: r.RemoteAddr,
		Protocol:   protocols[protocol(r.ProtoMajor)],
		Reason:     reason.String(),
		Status:     reason.Status(),
		ReportOnly: h.ReportOnly,
	})
	if h.ReportOnly {
		return nil
	}
	// RFC 7540 section 9.1.2 let caches keep a 421, and an alternative service
	// would lead the client back here (RFC 7838 section 6).
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Del("Alt-Svc")
	return caddyhttp.Error(reason.Status(), fmt.Errorf("host '%s' over a connection with SNI '%s': %s", host, req.sni, reason))
}

// log logs a refusal. Anyone can cause these, as many as they like: at debug
// level a flood of them fills no disk unless somebody asked for it.
func (h *Handler) log(r *http.Request, v verdict) {
	if c := h.logger.Check(zapcore.DebugLevel, "misdirected request"); c != nil {
		c.Write(
			zap.String("sni", v.sni),
			zap.String("host", v.host),
			zap.String("remote_addr", r.RemoteAddr),
			zap.String("protocol", protocols[protocol(r.ProtoMajor)]),
			zap.Stringer("reason", v.reason),
			zap.Int("status", v.reason.Status()),
			zap.String("site", h.server.Snapshot().Site(v.host)),
			zap.Bool("report_only", h.ReportOnly),
		)
	}
}

// read takes from a request what the decision looks at.
func read(r *http.Request) request {
	req := request{
		tls:        r.TLS != nil,
		host:       r.Host,
		remoteAddr: r.RemoteAddr,
		http10:     r.ProtoMajor == 1 && r.ProtoMinor == 0,
	}
	if r.TLS != nil {
		req.sni = r.TLS.ServerName
	}
	if r.ProtoMajor > 1 { // net/http has compared the fields of HTTP/1 itself
		req.hostField = r.Header["Host"]
	}
	if r.Method == http.MethodConnect {
		// Extended CONNECT (RFC 8441, RFC 9220) is no request to a proxy. The
		// :protocol is a field in x/net, and the protocol itself in quic-go.
		req.forward = len(r.Header[":protocol"]) == 0 && strings.HasPrefix(r.Proto, "HTTP/")
	} else {
		req.forward = r.ProtoMajor == 1 && r.URL.IsAbs()
	}
	return req
}

// A verdict is what placeholders show of a decision.
type verdict struct {
	sni, host string
	reason    Reason
}

var placeholders = []string{"http.misdirected.sni", "http.misdirected.host", "http.misdirected.reason"}

func (v verdict) placeholder(key string) (any, bool) {
	switch key {
	case "http.misdirected.sni":
		return v.sni, true
	case "http.misdirected.host":
		return v.host, true
	case "http.misdirected.reason":
		return v.reason.String(), true
	}
	return nil, false
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ authority.GuardHandler      = (*Handler)(nil)
)
