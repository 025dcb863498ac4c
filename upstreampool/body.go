package upstreampool

import (
	"context"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// bodyVar is where the body of a request waits for another round trip: lb_retries
// hands the same one to us again, of which some may have been read.
const bodyVar = "upstreampool.body"

// errSpent is the error of a round trip whose request was sent elsewhere before, with a
// body that nobody has any more. What is left of it would look like a whole one.
var errSpent = errors.New("sending request once more: its body was read before, and is not kept")

// bodyOf returns the body of a request, from its beginning.
func bodyOf(req *http.Request) (*replay.Body, error) {
	waiting, _ := caddyhttp.GetVar(req.Context(), bodyVar).(*waitingBody)
	switch {
	case waiting == nil || !waiting.Reads(req.Body):
		return replay.NewBody(req.Body, req.ContentLength), nil
	case waiting.spent:
		return nil, errSpent
	}
	waiting.spent = true
	return waiting.Body, nil
}

// A waitingBody is one that another round trip may ask for.
type waitingBody struct {
	*replay.Body
	spent bool // it cannot have it
}

// takeBody finds the body of the request, to be sent from its beginning.
func (x *exchange) takeBody() (err error) {
	if x.body, err = bodyOf(x.req); err != nil {
		return caddyhttp.Error(http.StatusBadGateway, err)
	}
	out := x.edit()
	out.Body = x.body.First()
	if x.body.BeingRead() {
		out.Trailer = nil // there is none, see attempt
	}
	return nil
}

// passOn prepares for reverse_proxy to send the request elsewhere, after the error
// given. It returns that, or one with which this is not done.
func (x *exchange) passOn(err error) error {
	_, dial := errors.AsType[reverseproxy.DialError](err)
	switch {
	case !x.body.Consumed(), (dial || replay.Idempotent(x.req)) && x.leave():
		return err
	case dial: // what is left of the body must not be sent elsewhere
		err = opaque(err)
	}
	x.spend()
	return err
}

// leave leaves what was read of the body to another round trip of the request. It
// reports false if that cannot have it from its beginning.
func (x *exchange) leave() bool {
	if !hasVars(x.ctx) {
		return false
	}
	again, ok := x.body.Again()
	if ok {
		caddyhttp.SetVar(x.ctx, bodyVar, &waitingBody{Body: again})
	}
	return ok
}

// spend notes that no other round trip can have the body, some of which was read.
func (x *exchange) spend() {
	if hasVars(x.ctx) {
		caddyhttp.SetVar(x.ctx, bodyVar, &waitingBody{Body: x.body, spent: true})
	}
}

// hasVars tells whether ctx has the variables of a client's request.
func hasVars(ctx context.Context) bool {
	_, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	return ok
}
