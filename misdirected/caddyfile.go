package misdirected

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("misdirected", parseDirective)
	// before everything that answers, changes the request or sets a header
	httpcaddyfile.RegisterDirectiveOrder("misdirected", httpcaddyfile.Before, "header")
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	warnOfMissedBlocks(h)
	return handler, nil
}

// An option is a line in the directive's block.
type option struct {
	name     string
	repeated bool // it may be given more than once
	// read takes the arguments, and the block where the option has one.
	read func(h *Handler, d *caddyfile.Dispenser) error
}

// options are all options, in the order of the docs.
var options = []option{
	{"scope", false, word(func(h *Handler, value string) { h.Scope = Scope(value) })},
	{"share", true, func(h *Handler, d *caddyfile.Dispenser) error {
		names := d.RemainingArgs()
		if len(names) < 2 {
			return d.ArgErr()
		}
		h.Share = append(h.Share, names)
		return nil
	}},
	{"missing_sni", false, word(func(h *Handler, value string) { h.MissingSNI = MissingSNI(value) })},
	{"trusted_gateways", false, func(h *Handler, d *caddyfile.Dispenser) (err error) {
		h.TrustedGatewaysRaw, err = unmarshalGateways(d)
		return err
	}},
	{"alt_svc", false, word(func(h *Handler, value string) { h.AltSvc = AltSvc(value) })},
	{"error_routes", false, flag(func(h *Handler) { h.ErrorRoutes = true })},
	{"close", false, flag(func(h *Handler) { h.Close = true })},
	{"report_only", false, flag(func(h *Handler) { h.ReportOnly = true })},
}

// word reads one argument. Its value is checked by compile, as that of JSON is.
func word(set func(h *Handler, value string)) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		args := d.RemainingArgs()
		if len(args) != 1 {
			return d.ArgErr()
		}
		set(h, args[0])
		return nil
	}
}

func flag(set func(h *Handler)) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		set(h)
		return nil
	}
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	misdirected [<matcher>] {
//		scope            sni | site | certificate
//		share            <name...>
//		missing_sni      same_policy | accept | reject
//		trusted_gateways <cidr...> | private_ranges | <ip_source> [<options...>]
//		alt_svc          auto | keep
//		error_routes
//		close
//		report_only
//	}
//
// Each line of share is one group. All other options may be given once.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		i := slices.IndexFunc(options, func(o option) bool { return o.name == d.Val() })
		if i < 0 {
			return d.Errf("unknown option '%s': must be %s", d.Val(), optionNames())
		}
		name := options[i].name
		if seen[name] && !options[i].repeated {
			return d.Errf("option '%s' is given twice", name)
		}
		seen[name] = true
		if err := options[i].read(h, d); err != nil {
			return err
		}
		// Values are checked here as well as at load, so that the message says
		// which line they are in.
		if _, err := h.compile(); err != nil {
			return d.WrapErr(err)
		}
		if d.NextBlock(1) {
			return d.Errf("option '%s' takes no block", name)
		}
	}
	return nil
}

// optionNames are all options in words.
func optionNames() string {
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
