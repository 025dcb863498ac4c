package origin

import (
	"slices"
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
		case "http3":
			if len(args) != 0 {
				return d.ArgErr()
			}
			l.HTTP3 = true
		default:
			at := slices.IndexFunc(numbers, func(n number) bool { return n.name == option })
			if at < 0 {
				return d.Errf("unknown option '%s': must be origins, public_port, max_origins or http3", option)
			}
			if err := numbers[at].read(d, l, args); err != nil {
				return err
			}
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

// read reads a number from 1 on; 0 is for JSON alone, where it stands for an option
// that is not given.
func (n number) read(d *caddyfile.Dispenser, l *ListenerWrapper, args []string) error {
	if len(args) != 1 {
		return d.ArgErr()
	}
	value, err := strconv.Atoi(args[0])
	if err != nil || value < 1 || value > n.most {
		return d.Errf("reading %s '%s': must be a number from 1 to %d", n.name, args[0], n.most)
	}
	*n.field(l) = value
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*ListenerWrapper)(nil)
