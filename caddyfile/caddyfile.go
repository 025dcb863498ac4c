// Package caddyfile registers what the connreuse modules need in the Caddyfile
// and no module type provides: directives and their order.
package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/misdirected"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("misdirected", parseMisdirected)
	// before everything that answers, changes the request or sets a header
	httpcaddyfile.RegisterDirectiveOrder("misdirected", httpcaddyfile.Before, "header")
}

func parseMisdirected(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(misdirected.Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}
