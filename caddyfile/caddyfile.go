// Package caddyfile brings what Caddyfiles need of the connreuse modules. Each
// directive and its order stand beside the handler that it configures; the tests of
// this package show what Caddyfiles with all of them become.
package caddyfile

import _ "github.com/caddy-connreuse/connreuse/misdirected" // its directive
