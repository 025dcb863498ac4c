package upstreampool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

func TestMinIdle(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MinIdle = 3 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.setIdle(2 * time.Second) // connections die and are replaced
		mustSend(t, tr, get(t))
		synctest.Wait()
		count := func() int { return onlyPool(t, tr).snapshot().Connections["idle"] }
		if n := count(); n < 3 {
			t.Fatalf("%d idle connections, want 3", n)
		}
		for range 20 {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if n := count(); n < 3 {
				t.Fatalf("%d idle connections, want 3", n)
			}
		}
		if l := tr.learnedLimit(); l.Source != idletime.SourceAssumed {
			t.Errorf("connections that carried no request taught %v", l)
		}
		s.refuse.Store(true) // and dialed again, not too often, when that fails
		time.Sleep(30 * time.Second)
		errs := onlyPool(t, tr).snapshot().DialErrors
		if errs == 0 || errs > 3*31 {
			t.Errorf("%d failed dials in 30 s", errs)
		}
		s.refuse.Store(false)
		s.setIdle(0)
		time.Sleep(time.Minute) // the longest pause between dials
		synctest.Wait()
		if n := count(); n < 3 {
			t.Fatalf("%d idle connections after the upstream came back, want 3", n)
		}
		time.Sleep(2 * time.Hour) // nobody asks any more
		if n := len(tr.core.all()); n != 0 || s.open.Load() != 0 {
			t.Errorf("%d pools, %d connections are left", n, s.open.Load())
		}
	})
}

// An address that `dynamic` finds no more may soon be that of somebody else, so
// connections are not kept open to it for long.
//
// Checklist: P28.
func TestMinIdleToWhatDynamicFound(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MinIdle = 3 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		tr.user.dynamic = true
		mustSend(t, tr, get(t))
		for range 5 { // requests go on, and so do the connections
			time.Sleep(50 * time.Second)
			synctest.Wait()
			if n := onlyPool(t, tr).snapshot().Connections["idle"]; n < 3 {
				t.Fatalf("%d idle connections, want 3", n)
			}
			mustSend(t, tr, get(t))
		}
		time.Sleep(warmForFound + 3*time.Minute) // the sensor outlives it
		if n := len(tr.core.all()); n != 0 || s.open.Load() != 0 {
			t.Errorf("%d pools, %d connections are left", n, s.open.Load())
		}
		tr.user.addresses = []address{{"tcp", pipeAddr}} // the configuration names it as well
		mustSend(t, tr, get(t))
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if n := onlyPool(t, tr).snapshot().Connections["idle"]; n < 3 {
			t.Errorf("%d idle connections to a named upstream, want 3", n)
		}
	})
}

// Which reverse_proxy finds upstreams is known from its settings.
func TestDynamicIsKnown(t *testing.T) {
	for settings, want := range map[string]bool{
		`"upstreams":[{"dial":"127.0.0.1:8080"}]`:                                                         false,
		`"dynamic_upstreams":{"source":"a","name":"app.test","port":"80"}`:                                true,
		`"dynamic_upstreams":{"source":"srv","name":"_http._tcp.app.test"}`:                               true,
		`"dynamic_upstreams":{"source":"multi","sources":[{"source":"a","name":"app.test","port":"80"}]}`: true,
	} {
		stopCaddy(t)
		before := cores()
		var cfg caddy.Config
		if err := json.Unmarshal(fmt.Appendf(nil, `{"admin":{"disabled":true,"config":{"persist":false}},"storage":{"module":"file_system","root":%q},
			"logging":{"logs":{"default":{"level":"PANIC"}}},"apps":{"http":{"servers":{"front":{"listen":["127.0.0.1:0"],"routes":[{"handle":[
			{"handler":"reverse_proxy","transport":{"protocol":"upstreampool","max_requests":%d},%s}]}]}}}}}`, storageOf(t), 7000+unique.Add(1), settings), &cfg); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Run(&cfg); err != nil {
			t.Fatal(err)
		}
		for _, c := range cores() {
			if !slices.Contains(before, c) && c.users.find(address{"tcp", "127.0.0.2:80"}) != want {
				t.Errorf("%s: taken for %v, want %v", settings, !want, want)
			}
		}
	}
}

// Upstreams close a connection that has not brought a request yet by another,
// often shorter timeout (nginx: 60 s instead of 75 s, Apache: 20 s).
func TestUnusedConnectionsAreNotKeptAlive(t *testing.T) {
	bubble(t, known, func(t *testing.T, tr *Transport, s *pipeServer) {
		s.delay.Store(int64(time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := tr.RoundTrip(requestTo(t, ctx, "GET", "tcp", pipeAddr, nil)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("err = %v", err)
		}
		time.Sleep(5 * time.Second)
		if got := mustSend(t, tr, post(t)); got != "2" {
			t.Errorf("a POST went out on connection %s, idle for 4 s since it was opened", got)
		}
		time.Sleep(time.Minute)
		if got := mustSend(t, tr, post(t)); got != "2" {
			t.Errorf("connection %s, want the one that is kept alive", got)
		}
	})
}

// Connections for min_idle that are of no use are not opened again and again.
func TestMinIdleInVain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		header string
		idle   time.Duration
		change func(*Transport)
		most   int64 // opened in 10 s
	}{
		{"nothing is reused", "Connection: keep-alive\r\nKeep-Alive: timeout=0", 0, nil, 0},
		{"they are closed at once", "", time.Millisecond, nil, 3 * 11},
		{"max_lifetime is over at once", "", 0, func(tr *Transport) { tr.MaxLifetime = caddy.Duration(time.Millisecond) }, 3 * 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(tr *Transport) {
				tr.MinIdle = 3
				if tc.change != nil {
					tc.change(tr)
				}
			}, func(t *testing.T, tr *Transport, s *pipeServer) {
				s.header.Store(tc.header)
				s.setIdle(tc.idle)
				s.delay.Store(int64(10 * time.Millisecond)) // or the clock would stand still
				mustSend(t, tr, get(t))
				time.Sleep(time.Second)
				before := s.conns.Load()
				time.Sleep(10 * time.Second)
				if n := s.conns.Load() - before; n > tc.most {
					t.Errorf("%d connections opened in 10 s, want at most %d", n, tc.most)
				}
			})
		})
	}
}

// Nothing is kept open to addresses that clients choose: one request to each would cost
// dials for an hour.
//
// Checklist: P28.
func TestMinIdleWhereClientsChoose(t *testing.T) {
	t.Setenv("UPSTREAM", "app.test:8080")
	for _, tc := range []struct {
		handler, transport string // settings
		refused            string // "": it is not
	}{
		{`"upstreams":[{"dial":"127.0.0.1:8080"}]`, ``, ``},
		{`"upstreams":[{"dial":"{env.UPSTREAM}"}]`, ``, ``},
		{`"upstreams":[{"dial":"127.0.0.1:8080"},{"dial":"{http.request.host}:80"}]`, ``, `upstream with '{http.request.host}'`},
		{`"dynamic_upstreams":{"source":"a","name":"app.test","port":"80"}`, ``, ``},
		{`"dynamic_upstreams":{"source":"a","name":"{env.UPSTREAM}","port":"80"}`, ``, ``},
		{`"dynamic_upstreams":{"source":"a","name":"{http.request.header.X-To}","port":"80"}`, ``, `dynamic with '{http.request.header.X-To}'`},
		{`"upstreams":[{"dial":"127.0.0.1:8080"}]`, `,"network_proxy":{"from":"url","url":"http://{http.vars.proxy}"}`,
			`network_proxy with '{http.vars.proxy}'`},
		{`"upstreams":[{"dial":"127.0.0.1:8080"}]`, `,"forward_proxy_url":"http://{http.vars.proxy}"`, `forward_proxy_url with '{http.vars.proxy}'`},
	} {
		t.Run(tc.handler+tc.transport, func(t *testing.T) {
			var cfg caddy.Config
			if err := json.Unmarshal(fmt.Appendf(nil, `{"admin":{"disabled":true},"logging":{"logs":{"default":{"level":"PANIC"}}},
				"apps":{"http":{"servers":{"front":{"listen":["127.0.0.1:0"],"routes":[{"handle":[
				{"handler":"reverse_proxy","transport":{"protocol":"upstreampool","min_idle":2%s},%s}]}]}}}}}`, tc.transport, tc.handler), &cfg); err != nil {
				t.Fatal(err)
			}
			err := caddy.Validate(&cfg)
			if tc.refused == "" && err != nil || tc.refused != "" && (err == nil || !strings.Contains(err.Error(), "min_idle '2': "+tc.refused)) {
				t.Errorf("error = %v, want %q", err, tc.refused)
			}
		})
	}
}
