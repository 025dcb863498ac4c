package upstreampool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// exchange is one request on its way: at most two attempts at it.
type exchange struct {
	core *core
	ctx  context.Context
	req  *http.Request // as reverse_proxy gave it to us; never changed
	out  *http.Request // what is sent; req itself while nothing differs
	body *replay.Body  // nil: there is none
	tg   target
	need need
}

// roundTrip sends req to tg.
func (c *core) roundTrip(req *http.Request, tg target) (*http.Response, error) {
	x := exchange{core: c, ctx: req.Context(), req: req, out: req, tg: tg}
	if h, found := withoutH2CUpgrade(req.Header); found && x.tg.h1 {
		x.edit().Header = h
		x.tg.h1 = upgrades(h)
	}
	if req.Body != nil && req.Body != http.NoBody {
		x.body = bodyOf(req)
		x.edit().Body = x.body.First()
	}
	x.need = need{
		replayable: replay.Idempotent(req) && (x.body == nil || x.keepable()),
		bodyless:   x.body == nil,
	}
	resp, err := x.run()
	if err != nil {
		if _, dial := errors.AsType[reverseproxy.DialError](err); dial && x.body.Consumed() && !leave(x.ctx, x.body) {
			// reverse_proxy would send what is left of the body elsewhere.
			err = opaque(err)
		}
		x.body.Abandon()
		return nil, replay.Plain(err)
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

// run makes the attempts.
func (x *exchange) run() (*http.Response, error) {
	if err := x.lengthFor10(); err != nil {
		return nil, err
	}
	p, g := x.core.get(x.ctx, &x.tg, x.need)
	if g.err != nil {
		return nil, unavailable(g.err)
	}
	resp, o, err := x.attempt(p, g)
	replayed := false
	if o.Raced {
		defer func() { p.countRace(replayed) }()
	}
	reason, again := o.Decide()
	if !again {
		if err != nil && g.reused && !o.Ours {
			x.log(p, g, zap.WarnLevel, "request failed on reused connection", "not replayable", err)
		}
		return resp, err
	}
	met := time.Now()
	if resp != nil {
		var whole bool
		if resp, whole = keepResponse(resp); !whole {
			return resp, nil
		}
	}
	n := x.need
	n.freshIfRoom = reason == replay.Refused
	n.fresh = !n.freshIfRoom
	p2, g2 := x.core.get(x.ctx, &x.tg, n)
	if g2.err != nil {
		x.log(p, g, zap.WarnLevel, "replaying request failed", string(reason), g2.err)
		return resp, err
	}
	if x.body != nil {
		v, ok := x.body.Rewind()
		if !ok {
			p2.giveBack(g2.c)
			return resp, err
		}
		out := *x.out // net/http may still look at the first one
		out.Body = v
		x.out = &out
	}
	replayed = true
	countReplayed(p.label, reason)
	p2.replayed(reason)
	x.log(p, g, zap.DebugLevel, "replaying request", string(reason), err)
	resp, _, err = x.attempt(p2, g2)
	if o.Raced && err == nil {
		// It was the connection, not the request.
		g.c.learner.SawClose(idletime.Close{At: met, Idle: g.idle, Open: g.idle, Opened: g.c.opened})
	}
	return resp, err
}

// attempt sends the request on the connection granted and says how that went.
func (x *exchange) attempt(p *pool, g grant) (*http.Response, replay.Outcome, error) {
	c := g.c
	p.requests.count(g.reused)
	out := x.out
	if !c.h2 && c.requests == 1 && x.core.cfg.reuse && out.Header["Connection"] == nil {
		// Apache and Tomcat announce their timeout only to those who ask. The
		// map is shared with reverse_proxy, which may retry elsewhere.
		asking := *out
		asking.Header = maps.Clone(out.Header)
		if asking.Header == nil {
			asking.Header = make(http.Header, 1)
		}
		asking.Header["Connection"] = []string{"keep-alive"}
		out = &asking
	}
	start := time.Now()
	resp, err := c.cc.RoundTrip(out)
	if c.h2 {
		c.streamsEnded(true)
	}
	o := replay.Outcome{Idempotent: replay.Idempotent(x.req), Reused: g.reused, H2: c.h2}
	if err != nil {
		x.failed(p, g, start, err, &o)
		return nil, o, err
	}
	if g.idle > 0 {
		c.learner.SawOpen(c.seen(start, g.idle, idletime.Answered))
	}
	o.Status = resp.StatusCode
	if o.Status == http.StatusMisdirectedRequest {
		o.BodyKept = x.body.Rewindable()
	}
	if c.h2 {
		if n := c.cc.Available(); n > 0 {
			p.up.streams.Store(int32(min(n+c.cc.InFlight(), 1<<20)))
		}
		if x.need.bodyless {
			c.learner.Responded(start, time.Since(start))
		}
		c.answered.Add(1)
		c.serveWaiting()
		resp.Body = &stream{ReadCloser: resp.Body, c: c}
		return resp, o, nil
	}
	p.answered(c, resp)
	return resp, o, nil
}

// raceShows is how soon a request fails that met a connection being closed: it
// takes a round trip. Later failures are about the request.
const raceShows = time.Second

// failed finds out what an error means, and ends the lease.
func (x *exchange) failed(p *pool, g grant, start time.Time, err error, o *replay.Outcome) {
	c := g.c
	now := time.Now()
	var timeout net.Error
	o.Ours = x.ctx.Err() != nil || x.body.Failed() || errors.As(err, &timeout) && timeout.Timeout()
	o.BodyKept = x.body.Rewindable()
	if c.h2 {
		o.Refused = replay.WasRefused(err)
		_, reset := errors.AsType[http2.StreamError](err)
		o.StreamOnly = (reset || !o.Refused) && c.cc.Err() == nil
	} else {
		o.Written = c.net.sent.Load()
		o.Responded = c.net.got.Load() > int64(c.net.noise)
		// net/http did not like the request: the connection has not seen it.
		o.Ours = o.Ours || !o.Written && c.cc.Available() == 1
	}
	if g.reused && !o.Ours && !o.Responded && !o.StreamOnly && now.Sub(start) < raceShows &&
		g.limit.Value > 0 && g.idle >= g.limit.Value/2 {
		c.learner.Raced(now)
		o.Raced = true
	}
	p.settle(c)
}

// lengthFor10 gives a body of unknown length one, if the upstream last answered
// HTTP/1 with HTTP/1.0 and so may not know chunked encoding (RFC 9112 section 6.1).
func (x *exchange) lengthFor10() error {
	if x.body == nil || x.req.ContentLength >= 0 {
		return nil
	}
	up := x.core.upstreams.get(x.tg.upstream())
	if !up.versions.Only10(time.Now()) || x.core.h2(x.tg.key, up) {
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

func (x *exchange) log(p *pool, g grant, level zapcore.Level, msg, reason string, err error) {
	ce := x.core.log().Check(level, msg)
	if ce == nil {
		return
	}
	ce.Write(
		zap.String("upstream", p.name),
		zap.String("method", x.req.Method),
		zap.String("uri", x.req.URL.RequestURI()),
		zap.Bool("reused", g.reused),
		zap.Duration("idle", g.idle),
		zap.Duration("age", time.Since(g.c.opened)),
		zap.String("reason", reason),
		zap.Error(err),
	)
}

// stream is the body of an HTTP/2 response: its end frees the stream.
type stream struct {
	io.ReadCloser
	c    *conn
	done atomic.Bool
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil {
		s.end()
	}
	return n, err
}

func (s *stream) Close() error {
	err := s.ReadCloser.Close()
	s.end()
	return err
}

func (s *stream) end() {
	if !s.done.Swap(true) {
		s.c.answered.Add(-1)
		s.c.pool.streamEnded(s.c)
	}
}
