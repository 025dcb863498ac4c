// Package misdirected is an HTTP handler that refuses requests which came over
// a connection that is not right for them.
//
//	a.example.com {
//		misdirected
//		reverse_proxy 127.0.0.1:8080
//	}
//
// A request comes in as an [http.Request] and leaves as a [Reason]:
//
//   - misdirected.go has the handler
//   - asked.go reads the request: all names in it are parsed once
//   - decide.go is the rule, as a table of steps; explain.go walks it with words
//   - refuse.go answers a refusal, altsvc.go takes HTTP/3 away where it would
//     lead clients into refusals
//   - gateways.go has the sources of trusted addresses
//   - options.go and caddyfile.go read the configuration, servers.go notices what a site
//     misses in it
//   - metrics.go and recent.go say what happened
//
// What a server, a site and a certificate are is known to internal/authority.
package misdirected

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/stack"
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
// A host that equals the SNI passes, unless it requires a client certificate and
// the connection shows none. Requests that no other connection could help either
// (no host, an invalid one, two different ones) get 400. A refusal has a short
// text, `Cache-Control: no-store` and no `Alt-Svc`, and leaves the connection
// open.
//
// Caddy's own `strict_sni_host`, which Caddy turns on by itself as soon as a TLS
// policy of the server asks for client certificates, answers before any handler
// runs: set it to `insecure_off` on servers where this handler is to decide.
//
// These placeholders are available to the handlers behind it, to error routes and
// to access logs:
//
// Placeholder | Description
// ------------|-------------
// `{http.misdirected.sni}` | The server name of the connection, as the client sent it
// `{http.misdirected.host}` | The host that was decided on: lower case, without port and trailing dot; as the client sent it, if it is invalid or Caddy routes that spelling elsewhere
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
	// TLS policy to another, which is warned about at start; it never leads to a
	// host that requires a client certificate on a connection that shows none. A
	// name may be in one group only. Default: none.
	Share [][]string `json:"share,omitempty"`

	// What to do with connections without SNI, such as those of health checks
	// and of clients that ask for an IP address.
	//
	// `same_policy` lets requests pass whose host has the TLS connection policy
	// that the connection got; what selects a certificate by name is set aside.
	//
	// `accept` lets all pass, but for hosts that require a client certificate the
	// connection does not show; `reject` none.
	//
	// Default: `same_policy`.
	MissingSNI MissingSNI `json:"missing_sni,omitempty"`

	// The IP source, a module of `http.ip_sources`, of the gateways that are
	// trusted to send each request over a connection of their choice (RFC 9110
	// section 7.4), such as `{"source": "static", "ranges": ["10.0.0.0/8"]}`. What
	// counts is the other end of the TLS connection, never a header field, and only
	// once the handshake is complete: early data over QUIC has no valid address
	// (RFC 9001 section 9.2). It never leads around a client-certificate rule.
	// Default: none.
	TrustedGatewaysRaw json.RawMessage `json:"trusted_gateways,omitempty" caddy:"namespace=http.ip_sources inline_key=source"`

	// What becomes of `Alt-Svc` in responses to requests that pass.
	//
	// `auto` sends `Alt-Svc: clear` (RFC 7838 section 4) where HTTP/3 leads clients
	// into refusals: where requests for the host would be refused on a connection
	// for another host whose certificate covers it, and where the certificate of
	// the request's own connection covers a host that would be refused there.
	// Browsers pool QUIC connections by certificate, and come back to them after a
	// 421.
	//
	// `keep` leaves the field as it is.
	//
	// Default: `auto`.
	AltSvc AltSvc `json:"alt_svc,omitempty"`

	// Hand refusals to the server's error routes (`handle_errors`), which may then
	// change them, instead of answering at once. Whoever turns a refusal into
	// another status, or lets an upstream answer it, breaks clients that would ask
	// again; this is warned about at start. Default: false.
	ErrorRoutes bool `json:"error_routes,omitempty"`

	// Close the connection after a 421 (HTTP/1.1: `Connection: close`, HTTP/2:
	// GOAWAY), for clients that never ask again by themselves: their next request
	// begins a new connection. HTTP/3 connections stay. Default: false.
	Close bool `json:"close,omitempty"`

	// Decide, count and log the same, but let every request pass, apart from those
	// over a TLS connection that a listener wrapper hides. Default: false.
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
	if h.gate.gateways, err = h.loadGateways(ctx); err != nil {
		return err
	}
	h.guard = &authority.Guard{
		Accepts:           h.gate.accepts,
		Scope:             h.gate.scope,
		ReportOnly:        h.ReportOnly,
		ErrorRoutes:       h.ErrorRoutes,
		AcceptsMissingSNI: h.gate.missing == MissingSNIAccept,
		KeepsAltSvc:       h.AltSvc == AltSvcKeep,
		Share:             h.Share,
		Explain:           h.explain,
	}
	h.server.AddGuard(h.guard)
	h.counters, err = newCounters(ctx.GetMetricsRegistry(), h.server.Name())
	return err
}

// Guard is for package authority.
func (h *Handler) Guard() *authority.Guard { return h.guard }

// ServeHTTP implements caddyhttp.MiddlewareHandler. It must need little of the
// stack, for that stays in use while the next handler runs: each HTTP/2 request
// begins with a small one, and to grow it costs more than the decision.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.ProtoMajor > 1 && h.server.Snapshot().Proxies() {
		stack.GrowForProxying()
	}
	if refused, err := h.judge(w, r); refused {
		return err
	}
	return next.ServeHTTP(w, r)
}

// judge decides on a request and makes that known. A refused one it answers, or
// returns the error to refuse it with.
func (h *Handler) judge(w http.ResponseWriter, r *http.Request) (refused bool, err error) {
	s := h.server.Snapshot()
	a := read(s, h.server, r)
	reason := h.gate.decide(s, a)
	status := reason.Status()
	reportOnly := h.ReportOnly && reason != TLSHidden

	out := reasons[reason].outcome
	if status != 0 && reportOnly {
		out = reported
	}
	h.counters.count(r.ProtoMajor, out)

	repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	v := verdict{a.sni.sent, a.decidedOn(), reason}
	repl.Map(v.placeholder)
	if status == 0 {
		h.setAltSvc(w, s, &a)
		return false, nil
	}
	// Another guard may have passed the request before; this goes before that.
	for _, key := range placeholders {
		value, _ := v.placeholder(key)
		repl.Set(key, value)
	}
	h.report(r, v, reportOnly)
	if reportOnly {
		h.setAltSvc(w, s, &a)
		return false, nil
	}
	if a.sni.kind == valid && a.host.kind == valid && status == http.StatusMisdirectedRequest {
		h.server.Refused(a.sni.canonical, a.host.canonical)
	}
	return true, h.refuse(w, r, v)
}

// report makes a refusal known to the operator.
func (h *Handler) report(r *http.Request, v verdict, reportOnly bool) {
	if v.reason == TLSHidden && h.server.First("tls_hidden") {
		h.logger.Error("a listener wrapper hides the TLS connections of this server, so every request is refused: "+
			"in listener_wrappers, put 'tls' behind the wrappers that do not show ConnectionState()",
			zap.String("server", h.server.Name()), zap.String("host", v.host), zap.String("remote_addr", r.RemoteAddr))
	}
	h.log(r, v, reportOnly)
	recent.add(Refusal{
		Time:       time.Now(),
		Server:     h.server.Name(),
		SNI:        v.sni,
		Host:       v.host,
		RemoteAddr: r.RemoteAddr,
		Protocol:   protocols[protocol(r.ProtoMajor)],
		Reason:     v.reason.String(),
		Status:     v.reason.Status(),
		ReportOnly: reportOnly,
	})
}

// log logs a refusal. Anyone can cause these, as many as they like: at debug
// level a flood of them fills no disk unless somebody asked for it.
func (h *Handler) log(r *http.Request, v verdict, reportOnly bool) {
	if c := h.logger.Check(zapcore.DebugLevel, "misdirected request"); c != nil {
		c.Write(
			zap.String("sni", v.sni),
			zap.String("host", v.host),
			zap.String("remote_addr", r.RemoteAddr),
			zap.String("protocol", protocols[protocol(r.ProtoMajor)]),
			zap.Stringer("reason", v.reason),
			zap.Int("status", v.reason.Status()),
			zap.String("site", h.server.Snapshot().Site(v.host)),
			zap.Bool("report_only", reportOnly),
		)
	}
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
