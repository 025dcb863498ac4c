package upstreampool

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// bodyVar is where the body of a request waits for another round trip: lb_retries
// hands the same one to us again, of which some may have been read.
const bodyVar = "upstreampool.body"

// bodyOf returns the body of a request, from its beginning.
func bodyOf(req *http.Request) *replay.Body {
	if b, _ := caddyhttp.GetVar(req.Context(), bodyVar).(*replay.Body); b.Reads(req.Body) {
		caddyhttp.SetVar(req.Context(), bodyVar, nil)
		return b
	}
	return replay.NewBody(req.Body, req.ContentLength)
}

// leave leaves b to another round trip of its request, of which nothing was sent. It
// reports false if that cannot read it from its beginning.
func leave(ctx context.Context, b *replay.Body) bool {
	if _, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any); !ok {
		return false
	}
	again, ok := b.Again()
	if ok {
		caddyhttp.SetVar(ctx, bodyVar, again)
	}
	return ok
}
