// Package connreuse collects the connreuse modules for Caddy. Importing it
// (which is what `xcaddy build --with github.com/caddy-connreuse/connreuse`
// does) registers them all, and the command `caddy connreuse`.
//
// They share one rule: a request travels only on a connection that is right
// for it, and the operator can see why.
package connreuse

import (
	_ "github.com/caddy-connreuse/connreuse/admin"
	_ "github.com/caddy-connreuse/connreuse/caddyfile"
	_ "github.com/caddy-connreuse/connreuse/command"
	_ "github.com/caddy-connreuse/connreuse/misdirected"
	_ "github.com/caddy-connreuse/connreuse/origin"
	_ "github.com/caddy-connreuse/connreuse/upstreampool"
)
