package upstreampool

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile deserializes Caddyfile tokens into t. Syntax:
//
//	transport upstreampool {
//	    max_idle_time       <duration>
//	    upstream_keep_alive <duration> | learn
//	    margin              <duration>
//	    max_lifetime        <duration> [<jitter%>]
//	    max_requests        <n>
//	    max_pending         <n>
//	    acquire_timeout     <duration>
//	    min_idle            <n>
//	    unacked_timeout     <duration>
//	    ping_interval       <duration> | off
//	    ping_timeout        <duration>
//	    remember            on | off
//	    follow_dns          <interval> | off
//
//	    # and every option of transport http
//	    ...
//	}
//
// No option can be given twice.
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume transport name
	name := d.Token()
	if d.NextArg() {
		return d.ArgErr()
	}
	// The options of transport http are left to it, in a block of their own.
	brace := name
	brace.Text = "{"
	stock := []caddyfile.Token{name, brace}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return d.Errf("option '%s' is given twice", option)
		}
		seen[option] = true
		own := optionNamed(option)
		if own == nil {
			stock = append(stock, d.NextSegment()...)
			continue
		}
		args := d.RemainingArgs()
		if len(args) == 0 || len(args) > own.maxArgs() {
			return d.ArgErr()
		}
		if err := own.read(t, args); err != nil {
			return d.WrapErr(err)
		}
		if inner := d.Nesting(); d.NextBlock(inner) {
			return d.Errf("option '%s' takes no block", option)
		}
	}
	if len(stock) > 2 {
		last := stock[len(stock)-1]
		stock = append(stock, caddyfile.Token{File: last.File, Line: last.Line + last.NumLineBreaks() + 1, Text: "}"})
		if err := t.HTTPTransport.UnmarshalCaddyfile(caddyfile.NewDispenser(stock)); err != nil {
			return err
		}
	}
	if err := t.check(nil); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Transport)(nil)
