// Command example is Caddy with the connreuse modules. Without arguments it
// runs a demo on loopback, with its own upstream, and prints commands to try.
// With arguments it is the caddy command.
package main

import (
	"fmt"
	"os"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-connreuse/connreuse"
)

func main() {
	if len(os.Args) > 1 {
		caddycmd.Main()
		return
	}
	if err := demo(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
