// Package learning measures how the upstream's keep-alive timeout is found, and
// what knowing it is good for.
package learning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// The transports that are compared.
const (
	stock = "http"
	ours  = "upstreampool"
)

// Run measures learning and reuse, at the same time: both mostly wait.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	caddyCtx, cancel, err := newContext(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	var learned, reused report.Result
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = learning(caddyCtx, o, &learned) })
	wg.Go(func() { errs[1] = reuse(caddyCtx, o, &reused) })
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return &report.Result{
		Title:  "Learning the timeout, and using it",
		Text:   learned.Text + "\n\n" + reused.Text,
		Claims: slices.Concat(learned.Claims, reused.Claims),
		Tables: slices.Concat(learned.Tables, reused.Tables),
		Plots:  learned.Plots,

		Versions: learned.Versions,
	}, nil
}

// newContext returns a context for transports, whose logs are discarded. They
// end when it is cancelled.
func newContext(ctx context.Context) (caddy.Context, context.CancelFunc, error) {
	base, err := caddy.ProvisionContext(&caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}},
	})
	if err != nil {
		return caddy.Context{}, nil, err
	}
	base.Context = ctx
	caddyCtx, cancel := caddy.NewContext(base)
	return caddyCtx, cancel, nil
}

// newTransport returns a transport of reverse_proxy that ends with ctx.
func newTransport(ctx caddy.Context, protocol string, settings map[string]any) (http.RoundTripper, error) {
	text, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	module, err := ctx.LoadModuleByID("http.reverse_proxy.transport."+protocol, text)
	if err != nil {
		return nil, err
	}
	return module.(http.RoundTripper), nil
}

// send sends a request as reverse_proxy does, and reads the response.
func send(ctx context.Context, rt http.RoundTripper, method, url, body string) error {
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer())
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.GetBody = nil // requests that a server received have none
	if body == "" {
		req.Body = http.NoBody
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}

// exponential returns a random gap of a Poisson process.
func exponential(mean time.Duration) time.Duration {
	return time.Duration(rand.ExpFloat64() * float64(mean))
}
