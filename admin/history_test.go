package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

// proxying provisions a server with a guard and a pool, in front of an upstream.
func proxying(t testing.TB) *caddyhttp.Server {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(upstream.Close)
	ctx := testcaddy.Provision(t, fmt.Sprintf(`{"http": {"servers": {"srv0": {%s, "tls_connection_policies": [{}], "routes": [
		{"match": [{"host": ["a.history.test"]}], "handle": [{"handler": "misdirected"},
			{"handler": "reverse_proxy", "transport": {"protocol": "upstreampool"}, "upstreams": [{"dial": "%s"}]}]}]}}}}`,
		testcaddy.NoRedirects, upstream.Listener.Addr()), "")
	srv := testcaddy.HTTPServer(t, ctx)
	pool := srv.Routes[0].Handlers[1].(*reverseproxy.Handler).Transport.(*upstreampool.Transport)
	t.Cleanup(func() { // or other tests would find it
		if err := pool.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// TestHistory: a point says what happened since the one before.
func TestHistory(t *testing.T) {
	srv := proxying(t)
	r := recorder{last: read()}
	now := time.Now()
	for i, requests := range []int{3, 0, 1} {
		for range requests {
			if w := testcaddy.Get(srv, "a.history.test", "a.history.test"); w.Code != http.StatusOK {
				t.Fatalf("%d: %s", w.Code, w.Body)
			}
			if w := testcaddy.Get(srv, "b.history.test", "a.history.test"); w.Code != http.StatusMisdirectedRequest {
				t.Fatalf("%d: %s", w.Code, w.Body)
			}
		}
		r.sample(now.Add(time.Duration(i) * sampleEvery))
	}
	got := r.list(now.Add(2 * sampleEvery))
	if len(got) != 3 || got[0].Requests != 3 || got[1].Requests != 0 || got[2].Requests != 1 {
		t.Fatalf("%+v", got)
	}
	if p := got[0]; p.Opened != 1 || p.Waits != 1 || p.Wait <= 0 || p.Races != 0 || p.Misdirected["other_host"] != 3 {
		t.Errorf("the first: %+v", p)
	}
	if p := got[1]; p.Opened != 0 || p.Waits != 0 || p.Wait != 0 || len(p.Misdirected) != 0 {
		t.Errorf("the second, in which nothing happened: %+v", p)
	}
	if p := got[2]; p.Opened != 0 || p.Misdirected["other_host"] != 1 {
		t.Errorf("the third: %+v", p)
	}
}

// TestHistoryLasts10Minutes: older points are gone, also after a time without config.
func TestHistoryLasts10Minutes(t *testing.T) {
	var r recorder
	begin := time.Now()
	for i := range 100 {
		r.sample(begin.Add(time.Duration(i) * sampleEvery))
	}
	last := begin.Add(99 * sampleEvery)
	got := r.list(last)
	if len(got) != points || !got[points-1].Time.Equal(last) || !got[0].Time.Equal(last.Add(-(points-1)*sampleEvery)) {
		t.Errorf("%d points, from %v to %v", len(got), got[0].Time, got[len(got)-1].Time)
	}
	if got := r.list(last.Add(time.Hour)); len(got) != 0 {
		t.Errorf("after an hour: %d points", len(got))
	}
	if text, err := json.Marshal(History{Points: r.list(last.Add(time.Hour))}); err != nil || string(text) != `{"every":0,"points":[]}` {
		t.Errorf("%s, %v", text, err)
	}
}

// TestHistoryRunsWhileNeeded: it runs over a reload, in which the new config begins
// before the old one ends, and ends with the last.
func TestHistoryRunsWhileNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer func(before []Point) { past.points = before }(past.points)
		past.points = nil
		config := func() context.CancelFunc {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			if err := (API{}).Provision(ctx); err != nil {
				t.Fatal(err)
			}
			return cancel
		}
		count := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := len(past.list(time.Now())); got != want {
				t.Errorf("%d points, want %d", got, want)
			}
		}
		first := config()
		time.Sleep(sampleEvery + time.Second)
		count(1)
		second := config()
		first()
		time.Sleep(sampleEvery)
		count(2)
		second()
		time.Sleep(5 * sampleEvery)
		count(2)
		third := config()
		time.Sleep(sampleEvery + time.Second)
		count(3)
		third()
		synctest.Wait() // no goroutine is left, or the bubble fails
	})
}

// BenchmarkRequest: a request costs the same with a history that is read a thousand
// times as often as it is.
func BenchmarkRequest(b *testing.B) {
	for _, recorded := range []bool{false, true} {
		b.Run(fmt.Sprintf("history=%v", recorded), func(b *testing.B) {
			srv := proxying(b)
			if recorded {
				ticker := time.NewTicker(sampleEvery / 1000)
				done := make(chan struct{})
				go func() {
					var r recorder
					for {
						select {
						case now := <-ticker.C:
							r.sample(now)
						case <-done:
							return
						}
					}
				}()
				defer func() { ticker.Stop(); close(done) }()
			}
			b.ReportAllocs()
			for b.Loop() {
				if w := testcaddy.Get(srv, "a.history.test", "a.history.test"); w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// BenchmarkHistory: one point costs little.
func BenchmarkHistory(b *testing.B) {
	var r recorder
	b.ReportAllocs()
	for b.Loop() {
		r.sample(time.Now())
	}
}
