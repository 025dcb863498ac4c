package throughput

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/stack"
)

func init() { caddy.RegisterModule(grow{}) }

// grow does what misdirected does for the stack of a request, and calls the next handler.
type grow struct{}

func (grow) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_grow", New: func() caddy.Module { return new(grow) }}
}

func (grow) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	stack.GrowForProxying()
	return next.ServeHTTP(w, r)
}
