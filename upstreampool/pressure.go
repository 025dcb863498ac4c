package upstreampool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
)

// A request that finds its pool full is refused by us, not by the upstream. As an
// error of the transport it would count as a failure of the upstream wherever
// reverse_proxy counts failures (`fail_duration`), and take a healthy one out of
// use. There it is answered as a response, which reverse_proxy does not count.
// Elsewhere it stays an error, which `lb_retries` takes to another upstream.

const (
	// statusFull is how a refusal introduces itself (RFC 9209 section 2.3.12).
	// The expression of lb_retry_match in the documentation knows it by that.
	statusFull = "Caddy; error=connection_limit_reached"

	// retryAfterFull is when a client may ask again, in seconds. Requests come and
	// go within less, but the field has no smaller unit.
	retryAfterFull = "1"
)

// A fullError says that the pool was full. As a DialError it goes elsewhere by any
// retry: nothing was sent.
type fullError struct {
	reverseproxy.DialError
	cause error
}

func (e fullError) Unwrap() []error { return []error{e.DialError, e.cause} }

// unavailable gives the errors of a full pool their status.
func unavailable(err error) error {
	if fullCause(err) == nil {
		return err
	}
	return caddyhttp.Error(http.StatusServiceUnavailable, fullError{reverseproxy.NewDialError(err), err})
}

// fullCause returns what says that the pool was full, or nil.
func fullCause(err error) error {
	for _, cause := range []error{connpool.ErrQueueFull, connpool.ErrAcquireTimeout} {
		if errors.Is(err, cause) {
			return cause
		}
	}
	return nil
}

// countsFailures tells whether a reverse_proxy counts failures of its upstreams.
func countsFailures(h *reverseproxy.Handler) bool {
	return h != nil && h.HealthChecks != nil && h.HealthChecks.Passive != nil && h.HealthChecks.Passive.FailDuration > 0
}

// triesResponses tells whether a reverse_proxy may send a request to another upstream for
// what its response says.
func triesResponses(h *reverseproxy.Handler) bool {
	return h != nil && h.LoadBalancing != nil && len(h.LoadBalancing.RetryMatchRaw) > 0
}

// enclosing returns the reverse_proxy whose transport is being provisioned, or nil.
// Its own provisioning is under way: matchers are still raw.
func enclosing(ctx caddy.Context) *reverseproxy.Handler {
	modules := ctx.Modules()
	for _, module := range slices.Backward(modules) {
		if h, ok := module.(*reverseproxy.Handler); ok {
			return h
		}
	}
	return nil
}

// refusal makes a response of an error that is no failure of the upstream, or returns
// nil: the pool was full, the body is too long for us, or its client cut it off or made it
// wrong, which reverse_proxy sees by itself only if the client is gone. A request whose
// body is gone must not go elsewhere, so its refusal does not show the field that the
// expression looks for.
func refusal(req *http.Request, err error, cut bool) *http.Response {
	own, refused := errors.AsType[caddyhttp.HandlerError](err)
	status, header := own.StatusCode, make(http.Header)
	switch {
	case fullCause(err) != nil:
		header.Set("Retry-After", retryAfterFull)
		if _, whole := errors.AsType[reverseproxy.DialError](err); whole {
			header.Set("Proxy-Status", statusFull)
		}
	case errors.Is(err, context.Canceled) || !refused && !cut:
		return nil
	case !refused:
		status = http.StatusBadRequest
	}
	return &http.Response{
		StatusCode: status,
		Status:     fmt.Sprint(status, " ", http.StatusText(status)),
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     header,
		Body:       http.NoBody,
		Request:    req,
	}
}

// warnOfPressure tells of settings of the enclosing reverse_proxy that undo what a
// refusal as a response is for. They matter only where a pool can be full.
func (t *Transport) warnOfPressure(h *reverseproxy.Handler, logger *zap.Logger) {
	if !t.answersRefusals || t.MaxConnsPerHost <= 0 {
		return
	}
	passive := h.HealthChecks.Passive
	for _, status := range passive.UnhealthyStatus {
		if caddyhttp.StatusCodeMatches(http.StatusServiceUnavailable, status) {
			logger.Warn("a full pool will mark the upstream down: it is answered with 503, which unhealthy_status counts as a failure",
				zap.Int("unhealthy_status", status), zap.Int("max_conns_per_host", t.MaxConnsPerHost))
			break
		}
	}
	wait := t.config().AcquireTimeout
	if latency := time.Duration(passive.UnhealthyLatency); latency > 0 && latency <= wait {
		logger.Warn("a full pool will mark the upstream down: requests may wait for a connection for as long as unhealthy_latency allows, or longer",
			zap.Duration("unhealthy_latency", latency), zap.Duration("acquire_timeout", wait))
	}
	lb := h.LoadBalancing
	if lb != nil && (lb.Retries > 0 || lb.TryDuration > 0) && !retriesRefusals(lb.RetryMatchRaw) {
		logger.Warn("a request that finds a full pool is not tried elsewhere: lb_retry_match has no expression for it",
			zap.String("expression", "{rp.header.Proxy-Status} == '"+statusFull+"'"))
	}
}

// retriesRefusals tells whether a matcher of lb_retry_match looks at what tells a
// refusal apart: its field, or its status.
func retriesRefusals(sets caddyhttp.RawMatcherSets) bool {
	for _, set := range sets {
		raw := string(set["expression"])
		if strings.Contains(raw, "connection_limit_reached") || strings.Contains(raw, "503") {
			return true
		}
	}
	return false
}
