package authority

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const originWithoutTLS = "this server has an origin listener wrapper and no TLS, so that it sends no ORIGIN frames; servers with TLS have no such wrapper: " +
	"of several 'servers' blocks only the first that fits a server applies"

// originWarnings tells of servers whose origin listener wrapper can do nothing, while
// it stands on no server on which it could.
func (app *App) originWarnings(servers map[string]*caddyhttp.Server) (found []Warning) {
	var idle, bare []string
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		known := app.servers[servers[name]]
		sends, hasTLS := known != nil && known.SendsOrigins(), len(servers[name].TLSConnPolicies) > 0
		switch {
		case sends && hasTLS:
			return nil
		case sends:
			idle = append(idle, name)
		case hasTLS:
			bare = append(bare, name)
		}
	}
	if len(bare) == 0 {
		return nil
	}
	for _, name := range idle {
		w := warn(originWithoutTLS, "servers", slices.Clone(bare))
		w.Server = name
		found = append(found, w)
	}
	return found
}
