package origin

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile sets up the wrapper from Caddyfile tokens. Syntax:
//
//	origin {
//		origins     auto | sites | none | <https origin...>
//		public_port <port>
//		max_origins <n>
//		http3
//	}
//
// Each option may be given once. The block may be left out.
func (l *ListenerWrapper) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the wrapper
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] {
			return d.Errf("option '%s' is given twice", option)
		}
		seen[option] = true

		args := d.RemainingArgs()
		switch option {
		case "origins":
			if len(args) == 0 {
				return d.ArgErr()
			}
			l.Origins = args
		case "public_port":
			if err := number(d, option, args, 65535, &l.PublicPort); err != nil {
				return err
			}
		case "max_origins":
			if err := number(d, option, args, mostMaxOrigins, &l.MaxOrigins); err != nil {
				return err
			}
		case "http3":
			if len(args) != 0 {
				return d.ArgErr()
			}
			l.HTTP3 = true
		default:
			return d.Errf("unknown option '%s': must be origins, public_port, max_origins or http3", option)
		}
		if d.NextBlock(1) {
			return d.Errf("option '%s' takes no block", option)
		}
	}
	// The values are checked here as well as at load, so that the message says
	// which line they are in.
	if _, _, err := l.compile(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// number reads a number from 1 to most; 0 is for JSON alone, where it stands for
// an option that is not given.
func number(d *caddyfile.Dispenser, option string, args []string, most int, to *int) error {
	if len(args) != 1 {
		return d.ArgErr()
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 || n > most {
		return d.Errf("reading %s '%s': must be a number from 1 to %d", option, args[0], most)
	}
	*to = n
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
