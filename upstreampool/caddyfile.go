package upstreampool

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
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
			return d.Errf("parsing option '%s': given twice", option)
		}
		seen[option] = true
		if !ownOptions[option] {
			stock = append(stock, d.NextSegment()...)
			continue
		}
		args := d.RemainingArgs()
		if err := t.unmarshalOption(d, option, args); err != nil {
			return err
		}
		if inner := d.Nesting(); d.NextBlock(inner) {
			return d.Errf("parsing option '%s': it has no block", option)
		}
	}
	if len(stock) > 2 {
		last := stock[len(stock)-1]
		stock = append(stock, caddyfile.Token{File: last.File, Line: last.Line + last.NumLineBreaks() + 1, Text: "}"})
		if err := t.HTTPTransport.UnmarshalCaddyfile(caddyfile.NewDispenser(stock)); err != nil {
			return err
		}
	}
	if err := t.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// ownOptions are the options that transport http does not have.
var ownOptions = map[string]bool{
	"max_idle_time": true, "upstream_keep_alive": true, "margin": true, "max_lifetime": true,
	"max_requests": true, "max_pending": true, "acquire_timeout": true, "min_idle": true,
}

// unmarshalOption deserializes one of ownOptions.
func (t *Transport) unmarshalOption(d *caddyfile.Dispenser, option string, args []string) error {
	most := 1
	if option == "max_lifetime" {
		most = 2
	}
	if len(args) == 0 || len(args) > most {
		return d.ArgErr()
	}
	if option == "upstream_keep_alive" && args[0] == "learn" {
		return nil
	}
	for name, field := range map[string]*caddy.Duration{
		"max_idle_time": &t.MaxIdleTime, "upstream_keep_alive": &t.UpstreamKeepAlive, "margin": &t.Margin,
		"max_lifetime": &t.MaxLifetime, "acquire_timeout": &t.AcquireTimeout,
	} {
		if name != option {
			continue
		}
		dur, err := caddy.ParseDuration(args[0])
		if err != nil {
			return d.Errf("parsing %s '%s': %v", option, args[0], err)
		}
		if dur <= 0 {
			return d.Errf("parsing %s '%s': must be more than zero; leave it out for the default", option, args[0])
		}
		*field = caddy.Duration(dur)
	}
	for name, field := range map[string]*int{
		"max_requests": &t.MaxRequests, "max_pending": &t.MaxPending, "min_idle": &t.MinIdle,
	} {
		if name != option {
			continue
		}
		n, err := strconv.Atoi(args[0])
		if err != nil || n <= 0 {
			return d.Errf("parsing %s '%s': must be a whole number above zero; leave it out for the default", option, args[0])
		}
		*field = n
	}
	if len(args) == 2 {
		percent, ok := strings.CutSuffix(args[1], "%")
		n, err := strconv.Atoi(percent)
		if err != nil || !ok || n < 0 || n > 100 {
			return d.Errf("parsing %s jitter '%s': must be from 0%% to 100%%", option, args[1])
		}
		t.MaxLifetimeJitter = &n
	}
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Transport)(nil)
