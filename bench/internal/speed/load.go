package speed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// connections is how many a load has.
const connections = 16

// atOnce is how many requests begin at a time that are to be held open.
const atOnce = 128

// upstreamField is the field of a request by which it chooses its upstream, where it may.
const upstreamField = "X-Upstream"

// A loader keeps connections to one server.
type loader struct {
	url      string
	upstream string // that requests name
	clients  []*http.Client
	close    []func()
}

func newLoader(addr, protocol string, connections int) *loader {
	l := &loader{url: "https://" + addr + "/"}
	for range connections {
		config := &tls.Config{ServerName: sidebyside.Host, InsecureSkipVerify: true}
		var tr http.RoundTripper
		switch protocol {
		case "h3":
			t := &http3.Transport{TLSClientConfig: config}
			l.close = append(l.close, func() { _ = t.Close() })
			tr = t
		case "h2":
			t := &http.Transport{TLSClientConfig: config, Protocols: new(http.Protocols)}
			t.Protocols.SetHTTP2(true)
			l.close = append(l.close, t.CloseIdleConnections)
			tr = t
		}
		l.clients = append(l.clients, &http.Client{Transport: tr, Timeout: 5 * time.Minute})
	}
	return l
}

func (l *loader) end() {
	for _, c := range l.close {
		c()
	}
}

// ask sends a request on connection i and returns its response, whose body is still to
// be read.
func (l *loader) ask(ctx context.Context, i int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return nil, err
	}
	req.Host = sidebyside.Host
	if l.upstream != "" {
		req.Header.Set(upstreamField, l.upstream)
	}
	resp, err := l.clients[i%len(l.clients)].Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		err = fmt.Errorf("%s", resp.Status)
	}
	return resp, err
}

// open sends requests and returns their bodies, whose first byte has been read, or nil
// where that failed.
func (l *loader) open(ctx context.Context, requests int) ([]io.ReadCloser, error) {
	bodies, errs := make([]io.ReadCloser, requests), make([]error, requests)
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(atOnce, requests) {
		all.Go(func() {
			for n := int(next.Add(1)); n <= requests; n = int(next.Add(1)) {
				resp, err := l.ask(ctx, n)
				if err == nil {
					bodies[n-1] = resp.Body
					_, err = io.ReadFull(resp.Body, make([]byte, 1))
				}
				errs[n-1] = err
			}
		})
	}
	all.Wait()
	return bodies, errors.Join(errs...)
}

// A round is what one load of many requests was like.
type round struct {
	rate     float64 // requests/s
	p50, p99 time.Duration
}

// round sends requests, so many of them at a time.
func (l *loader) round(ctx context.Context, concurrent, requests int) (r round, err error) {
	took := make([]time.Duration, requests)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	begin := time.Now()
	for worker := range concurrent {
		all.Go(func() {
			for n := next.Add(1); n <= int64(requests); n = next.Add(1) {
				start := time.Now()
				resp, err := l.ask(ctx, worker)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				took[n-1] = time.Since(start)
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return r, *err
	}
	r.rate = float64(requests) / time.Since(begin).Seconds()
	slices.Sort(took)
	r.p50, r.p99 = took[requests/2], took[requests*99/100]
	return r, nil
}

// warm opens all connections, also those behind the proxy.
func (l *loader) warm(ctx context.Context, concurrent int) error {
	_, err := l.round(ctx, concurrent, 4*concurrent)
	return err
}
