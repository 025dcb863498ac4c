package misdirected

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	misdirected [<matcher>] {
//		scope            sni | site | certificate
//		share            <name...>
//		missing_sni      same_policy | accept | reject
//		trusted_gateways <cidr...> | private_ranges
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
		option := d.Val()
		if seen[option] && option != "share" {
			return d.Errf("option '%s' is given twice", option)
		}
		seen[option] = true

		args := d.RemainingArgs()
		switch option {
		case "scope":
			if len(args) != 1 {
				return d.ArgErr()
			}
			h.Scope = Scope(args[0])
		case "share":
			if len(args) < 2 {
				return d.ArgErr()
			}
			h.Share = append(h.Share, args)
		case "missing_sni":
			if len(args) != 1 {
				return d.ArgErr()
			}
			h.MissingSNI = MissingSNI(args[0])
		case "trusted_gateways":
			if len(args) == 0 {
				return d.ArgErr()
			}
			for _, arg := range args {
				if arg == "private_ranges" {
					h.TrustedGateways = append(h.TrustedGateways, caddyhttp.PrivateRangesCIDR()...)
				} else {
					h.TrustedGateways = append(h.TrustedGateways, arg)
				}
			}
		case "report_only":
			if len(args) != 0 {
				return d.ArgErr()
			}
			h.ReportOnly = true
		default:
			return d.Errf("unknown option '%s': must be scope, share, missing_sni, trusted_gateways or report_only", option)
		}
		// Values are checked here as well as at load, so that the message says
		// which line they are in.
		if _, err := h.compile(); err != nil {
			return d.WrapErr(err)
		}
		if d.NextBlock(1) {
			return d.Errf("option '%s' takes no block", option)
		}
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
