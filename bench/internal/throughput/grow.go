package throughput

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() { caddy.RegisterModule(grow{}) }

// grow grows the stack of a request's goroutine at once, to what a proxied request
// takes in the end, and calls the next handler. Every HTTP/2 stream has a goroutine of
// its own, whose stack would grow step by step.
type grow struct{}

func (grow) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_grow", New: func() caddy.Module { return new(grow) }}
}

func (grow) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	growStack(false)
	return next.ServeHTTP(w, r)
}

const enough = 13 << 10

//go:noinline
func growStack(fill bool) {
	if fill {
		var frame [enough]byte
		touch(&frame)
	}
}

//go:noinline
func touch(frame *[enough]byte) { frame[0] = 1 }
