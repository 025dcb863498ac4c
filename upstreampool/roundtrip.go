package upstreampool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// exchange is one request on its way: at most two attempts at it. It is never copied,
// and what it calls describes its results in it: the stack of a request of an HTTP/2 or
// HTTP/3 client is new, and has to be grown for whatever lies on it.
type exchange struct {
	core *core
	ctx  context.Context
	req  *http.Request // as reverse_proxy gave it to us; never changed
	out  *http.Request // what is sent; req itself while nothing differs
	body *replay.Body  // nil: there is none
	tg   target
	need connpool.Need
	told facts

	triesResponses bool // reverse_proxy may send the request elsewhere for what its response says
}

// roundTrip sends the request to its target.
func (x *exchange) roundTrip() (*http.Response, error) {
	req := x.req
	if h, found := withoutH2CUpgrade(req.Header); found && upgrades(req.Header) {
		x.edit().Header = h
		x.tg.h1 = x.tg.h1 && upgrades(h)
	}
	if req.Body != nil && req.Body != http.NoBody {
		if err := x.takeBody(); err != nil {
			return nil, err
		}
	}
	x.need = connpool.Need{
		Replayable: replay.Idempotent(req) && (x.body == nil || x.keepable()),
		Bodyless:   x.body == nil,
		Probe:      isHealthCheck(x.ctx),
		Bound:      authenticates(req.Header),
	}
	to := x.listener()
	resp, err := x.run()
	to.tell(x.told)
	if err != nil {
		err = x.passOn(err)
		x.body.Abandon()
		return nil, replay.Plain(err)
	}
	if x.body != nil && x.triesResponses && x.body.Consumed() {
		x.spend()
	}
	x.body.Finish()
	resp.Request = req
	return resp, nil
}

// edit returns the request to send, made a copy of its own first.
func (x *exchange) edit() *http.Request {
	if x.out == x.req {
		out := *x.req
		x.out = &out
	}
	return x.out
}

// keepable tells whether the body is likely to be kept whole. Requests of
// HTTP/3 clients always have a body of unknown length, most often an empty one.
func (x *exchange) keepable() bool {
	if x.req.ContentLength >= 0 {
		return x.req.ContentLength <= replay.MaxKept
	}
	switch x.req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// isHealthCheck tells whether a request is an active health check of reverse_proxy:
// it belongs to no request of a client, which has variables.
func isHealthCheck(ctx context.Context) bool { return !hasVars(ctx) }

// A try is one attempt at a request.
type try struct {
	pool    *pool
	lease   connpool.Lease
	doubted bool // nobody knows yet whether the address of the connection answers
	known   replay.Outcome
	resp    *http.Response
	err     error
}

// run makes the attempts.
func (x *exchange) run() (*http.Response, error) {
	if err := x.lengthFor10(); err != nil {
		return nil, err
	}
	var first try
	if err := x.acquire(&first, x.need); err != nil {
		return nil, unavailable(err)
	}
	x.attempt(&first)
	reason, again := first.known.Decide()
	replayed := again && x.again(&first, reason)
	if first.known.Raced {
		first.pool.countRace(replayed)
	}
	if !again && first.err != nil && first.lease.Reused && !first.known.Ours {
		x.log(&first, zap.WarnLevel, "request failed on reused connection", "not replayable", first.err)
	}
	return first.resp, first.err
}

// again sends the request once more and tells whether it did: what came of it is in
// t then.
func (x *exchange) again(t *try, reason replay.Reason) bool {
	met := time.Now()
	if t.resp != nil {
		var whole bool
		if t.resp, whole = keepResponse(t.resp); !whole {
			return false
		}
	}
	n := x.need
	switch {
	case t.doubted:
		n.Freshness = connpool.Any // the former addresses may answer
	case reason == replay.Refused:
		n.Freshness = connpool.FreshIfRoom
	default:
		n.Freshness = connpool.Fresh
	}
	var second try
	if err := x.acquire(&second, n); err != nil {
		x.log(t, zap.WarnLevel, "replaying request failed", string(reason), err)
		if t.resp == nil && (fullCause(err) != nil || x.ctx.Err() != nil) {
			t.err = unavailable(err) // what became of the first one says nothing of the upstream
		}
		return false
	}
	if x.body != nil {
		v, ok := x.body.Rewind()
		if !ok {
			second.lease.Unused()
			return false
		}
		out := *x.out // net/http may still look at the first one
		out.Body = v
		if x.body.BeingRead() {
			out.Trailer = nil
		}
		x.out = &out
	}
	second.pool.replayed(reason)
	x.told.replay = reason
	x.log(t, zap.DebugLevel, "replaying request", string(reason), t.err)
	x.attempt(&second)
	if t.known.Raced && second.err == nil {
		t.lease.Confirm(met)
	}
	t.resp, t.err = second.resp, second.err
	return true
}

// acquire gets a connection for an attempt.
func (x *exchange) acquire(t *try, n connpool.Need) error {
	for {
		t.pool = x.core.pool(&x.tg)
		switch err := t.pool.acquire(x.ctx, n, &t.lease); err {
		case connpool.ErrGone:
			x.core.forget(t.pool)
		case connpool.ErrUnusable:
			return dialError(err)
		default:
			return err
		}
	}
}

// attempt sends the request on the connection acquired, and says how that went.
func (x *exchange) attempt(t *try) {
	l := &t.lease
	x.told.use(l)
	t.pool.requests.count(l.Reused)
	t.doubted = t.pool.doubts(l)
	if l.HTTP2() && len(x.out.Trailer) == 0 { // trailers are set as the body is read
		x.body.ReadApart()
	}
	t.known = replay.Outcome{Idempotent: replay.Idempotent(x.req), Reused: l.Reused || t.doubted, H2: l.HTTP2()}
	t.resp, t.err = l.RoundTrip(x.out)
	if t.err != nil {
		x.failed(t)
		return
	}
	now := l.ReadAt() // in HTTP/1, what was read last is the head of the response
	if l.HTTP2() {
		now = time.Now()
	}
	t.known.Status = t.resp.StatusCode
	t.pool.requests.firstByte.of(t.known.Status).Observe(now.Sub(l.Sent()).Seconds())
	if t.known.Status == http.StatusMisdirectedRequest {
		t.known.BodyKept = x.body.Rewindable()
	}
	if !l.HTTP2() {
		t.pool.up.versions.Answered(now, t.resp)
	}
	t.pool.answered(l)
	l.Done(t.resp, now)
	pinChallenged(x.ctx, l, t.resp)
}

// failed finds out what an error means, and ends the lease.
func (x *exchange) failed(t *try) {
	f := t.lease.Fail(t.err, x.caused(t))
	if t.doubted && !f.Ours {
		t.pool.unanswered(t.err)
	}
	o := &t.known
	o.BodyKept = x.body.Rewindable()
	o.Failure, o.Silent = f.Failure, f.Silent != ""
	if f.Silent != "" && !f.Ours {
		t.err = &silenceError{f.Silent, x.core.cfg.Config}
	}
	if !f.Ours && (o.H2 && f.Refused && !f.StreamOnly || !o.H2 && !f.Written && !f.Responded) {
		t.err = dialError(replay.Plain(t.err)) // nothing was sent
	}
}

// caused tells whether the error of an attempt is the client's doing or ours.
func (x *exchange) caused(t *try) bool {
	if x.ctx.Err() != nil || x.body.Failed() || timedOut(t.err) {
		return true
	}
	return !t.known.H2 && !x.body.Consumed() && !replay.Writable(x.out) // trailers change as the body is read
}

// lengthFor10 gives a body of unknown length one, if the upstream last answered
// HTTP/1 with HTTP/1.0 and so may not know chunked encoding (RFC 9112 section 6.1).
func (x *exchange) lengthFor10() error {
	if x.body == nil || x.req.ContentLength >= 0 {
		return nil
	}
	// There need not be a pool: what does not acquire anything must not leave an empty one.
	up := x.core.upstreams.get(x.tg.upstream())
	if !up.versions.Only10(time.Now()) || x.core.speaksHTTP2(x.tg.key, up) {
		return nil
	}
	out := x.edit()
	length, err := x.body.GiveLength(out)
	if err == replay.ErrTooLong {
		return caddyhttp.Error(http.StatusLengthRequired, err)
	}
	if err != nil {
		return err
	}
	if length == 0 {
		x.body.Abandon() // there is none, for a replay neither
		x.body, out.Body = nil, nil
	}
	return nil
}

// keepResponse reads a short response to its end, so that it can be returned
// after its connection is gone. It reports false if it is too long for that.
func keepResponse(resp *http.Response) (*http.Response, bool) {
	head, err := io.ReadAll(io.LimitReader(resp.Body, replay.MaxKept+1))
	if err != nil || len(head) > replay.MaxKept {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
		return resp, false
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(head))
	return resp, true
}

// opaque hides what err is, but for its status.
func opaque(err error) error {
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		if full := fullCause(err); full != nil {
			he.Err = full
			return he
		}
		he.Err = errors.New(he.Err.Error())
		return he
	}
	return errors.New(err.Error())
}

func (x *exchange) log(t *try, level zapcore.Level, msg, reason string, err error) {
	ce := x.core.log().Check(level, msg)
	if ce == nil {
		return
	}
	ce.Write(
		zap.String("upstream", t.pool.name),
		zap.String("method", x.req.Method),
		zap.String("uri", x.req.URL.RequestURI()),
		zap.Bool("reused", t.lease.Reused),
		zap.Duration("idle", t.lease.Idle),
		zap.Duration("age", t.lease.Age()),
		zap.String("reason", reason),
		zap.Error(err),
	)
}
