package blackbox

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// A box on the way forgets connections that were idle for 3 s, and drops what they
// carry. That is learned from the first few requests that get lost.
//
// Checklist: P29.
func TestForgetfulBox(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	eachWay(t, func(t *testing.T, way way) {
		const forgets = 3 * time.Second
		var timers sync.Map
		p, u := newPath(t), new(upstream)
		box := func(c net.Conn, s http.ConnState) {
			if nc, ok := c.(interface{ NetConn() net.Conn }); ok {
				c = nc.NetConn()
			}
			if old, ok := timers.Load(c); ok {
				old.(*time.Timer).Stop()
			}
			if s == http.StateIdle {
				timers.Store(c, time.AfterFunc(forgets, func() { _ = fake.Deafen(c) }))
			}
		}
		serve(t, p, way.secure, u.ServeHTTP, func(s *http.Server) { s.ConnState = box })
		var lost, late, all atomic.Int64
		end := time.Now().Add(45 * time.Second)
		var clients sync.WaitGroup
		for i := range 4 {
			tr := aboutSilence(t, way.change)
			clients.Go(func() {
				for met := 0; time.Now().Before(end); {
					method := []string{"GET", "POST"}[i%2]
					r := send(tr, newRequest(t, t.Context(), method, addr(p), nil))
					all.Add(1)
					if r.took >= soon {
						lost.Add(1)
						if met++; met > 3 {
							late.Add(1)
						}
					}
					if !r.ok() && (method == "GET" || r.took < soon) {
						t.Error(method, r)
					}
					time.Sleep(forgets*2/3 + time.Duration(rand.Int64N(int64(forgets))))
				}
			})
		}
		clients.Wait()
		t.Logf("%d of %d requests were lost", lost.Load(), all.Load())
		if late.Load() > 1 {
			t.Errorf("%d of %d requests were lost after the first three", late.Load(), all.Load())
		}
	})
}

// What is healthy is never cut, however long it takes: the upstream acknowledges what
// it gets.
//
// Checklist: P29.
func TestHealthyIsNeverCut(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	const long = 60 * time.Second
	eachWay(t, func(t *testing.T, way way) {
		atOnce := func(name string, run func(*testing.T, *upstreampool.Transport)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t, newTransport(t, way.change))
			})
		}
		atOnce("slow upstream", func(t *testing.T, tr *upstreampool.Transport) {
			p := newPath(t)
			serve(t, p, way.secure, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(long)
				_, _ = io.WriteString(w, "x")
			}, nil)
			mustSend(t, tr, newRequest(t, t.Context(), "POST", addr(p), nil), 0)
		})
		atOnce("upload that is not read", func(t *testing.T, tr *upstreampool.Transport) {
			p := newPath(t)
			serve(t, p, way.secure, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(long)
				n, _ := io.Copy(io.Discard, r.Body)
				_, _ = fmt.Fprint(w, n)
			}, nil)
			body := strings.NewReader(strings.Repeat("x", 10<<20))
			if r := mustSend(t, tr, newRequest(t, t.Context(), "POST", addr(p), body), 0); r.body != "10485760" {
				t.Error(r)
			}
		})
		atOnce("event stream over an outage", func(t *testing.T, tr *upstreampool.Transport) {
			outage(t, tr, way.secure, 40*time.Second)
		})
	})
}

// outage drops what an event stream's upstream and its client send for a time.
func outage(t *testing.T, tr http.RoundTripper, secure bool, long time.Duration) {
	p, u := newPath(t), new(upstream)
	serve(t, p, secure, u.ServeHTTP, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req := newRequest(t, ctx, "GET", addr(p), nil)
	req.URL.Path = "/events"
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	event := make([]byte, 1)
	for range 3 {
		if _, err := io.ReadFull(resp.Body, event); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	p.lose() // no acknowledgement arrives at the upstream, so it has soon sent what it may
	start := time.Now()
	// A request meets the same connection, if that speaks HTTP/2.
	if r := send(tr, newRequest(t, t.Context(), "GET", addr(p), nil)); !r.ok() {
		t.Error(r)
	}
	time.Sleep(long - time.Since(start))
	p.each(fake.Hear)
	before := time.Now()
	for read := 0; time.Since(before) < 3*time.Second || read < 10; read++ {
		if _, err := io.ReadFull(resp.Body, event); err != nil {
			t.Fatalf("the stream was cut: %v", err)
		}
	}
}
