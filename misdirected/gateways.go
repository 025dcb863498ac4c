package misdirected

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const ipSources = "http.ip_sources"

// static is the JSON object of Caddy's static IP source.
func static(ranges []string) json.RawMessage {
	return caddyconfig.JSONModuleObject(caddyhttp.StaticIPRange{Ranges: ranges}, "source", "static", nil)
}

// checkGateways refuses what names no IP source.
func checkGateways(raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		var ranges []string
		if err := json.Unmarshal(raw, &ranges); err != nil || len(ranges) == 0 {
			ranges = []string{"10.0.0.0/8"}
		}
		return fmt.Errorf("reading trusted_gateways '%s': must be an object that names an IP source: write %s", raw, static(ranges))
	}
	var object struct {
		Source string   `json:"source"`
		Ranges []string `json:"ranges"`
	}
	if err := json.Unmarshal(raw, &object); err != nil || object.Source == "" {
		return fmt.Errorf("reading trusted_gateways '%s': must be an object that names an IP source, such as %s", raw, static([]string{"10.0.0.0/8"}))
	}
	if object.Source != "static" {
		return nil
	}
	if len(object.Ranges) == 0 {
		return fmt.Errorf("reading trusted_gateways '%s': must have at least one range", raw)
	}
	for _, text := range object.Ranges {
		if _, err := caddyhttp.CIDRExpressionToPrefix(text); err != nil {
			return fmt.Errorf("reading trusted_gateways '%s': must be an IP address or a CIDR range: %w", text, err)
		}
	}
	return nil
}

// loadGateways loads the IP source, nil for none.
func (h *Handler) loadGateways(ctx caddy.Context) (caddyhttp.IPRangeSource, error) {
	if len(h.TrustedGatewaysRaw) == 0 {
		return nil, nil
	}
	source, err := h.server.IPSource(ctx, h.TrustedGatewaysRaw)
	if err != nil {
		return nil, fmt.Errorf("loading trusted_gateways '%s': %w", h.TrustedGatewaysRaw, err)
	}
	return source, nil
}

// unmarshalGateways reads the rest of a trusted_gateways line. A first word that is
// a range is short for the source 'static'; any other is the source's name.
func unmarshalGateways(d *caddyfile.Dispenser) (json.RawMessage, error) {
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	first := d.Val()
	if first == "static" || isRange(first) {
		source := new(caddyhttp.StaticIPRange)
		args := d.RemainingArgs()
		if first != "static" {
			args = append([]string{first}, args...)
		}
		for _, arg := range args {
			if arg == "private_ranges" {
				source.Ranges = append(source.Ranges, caddyhttp.PrivateRangesCIDR()...)
			} else {
				source.Ranges = append(source.Ranges, arg)
			}
		}
		if len(source.Ranges) == 0 {
			return nil, d.ArgErr()
		}
		return static(source.Ranges), nil
	}
	if _, err := caddy.GetModule(ipSources + "." + first); err != nil {
		return nil, d.Errf("reading trusted_gateways '%s': must be an IP address, a CIDR range, private_ranges or the name of an IP source: %v", first, err)
	}
	unmarshaled, err := caddyfile.UnmarshalModule(d, ipSources+"."+first)
	if err != nil {
		return nil, err
	}
	source, ok := unmarshaled.(caddyhttp.IPRangeSource)
	if !ok {
		return nil, d.Errf("reading trusted_gateways '%s': module %T is no IP source", first, unmarshaled)
	}
	return caddyconfig.JSONModuleObject(source, "source", first, nil), nil
}

// describeGateways is an IP source in the words of a Caddyfile, as far as these are
// known here.
func describeGateways(raw json.RawMessage) string {
	var object struct {
		Source string   `json:"source"`
		Ranges []string `json:"ranges"`
	}
	if json.Unmarshal(raw, &object) != nil {
		return ""
	}
	if object.Source == "static" {
		return strings.Join(object.Ranges, " ")
	}
	return object.Source
}

// isRange tells whether a word is, or is meant to be, a range: no module has a
// slash or a colon in its name.
func isRange(word string) bool {
	_, err := netip.ParseAddr(word)
	return err == nil || word == "private_ranges" || strings.ContainsAny(word, "/:")
}
