package upstreampool

import (
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// statesOf returns what is told of an upstream.
func statesOf(addr string) (states []PoolState) {
	for _, s := range States() {
		if s.Upstream == addr {
			states = append(states, s)
		}
	}
	return states
}

// Counters go on when the last connection of a pool is gone, and the pool with it.
func TestCountersOutliveTheirPool(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, func(tr *Transport) { tr.MaxRequests = 1 })
	for range 3 {
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
		poll.Until(t, "the pool is gone", func() bool { return len(tr.core.all()) == 0 })
	}
	states := statesOf(s.addr())
	if len(states) != 1 {
		t.Fatalf("%d rows, want 1", len(states))
	}
	if got := states[0]; got.Requests != 3 || got.Opened != 3 || got.Closes["connection_close"]+got.Closes["max_requests"] != 3 {
		t.Errorf("%d requests, %d connections opened, closes %v, want 3 each", got.Requests, got.Opened, got.Closes)
	}
	for state, n := range states[0].Connections {
		if n != 0 {
			t.Errorf("%d connections are %s", n, state)
		}
	}
}

// An upstream that cannot be dialed is told of right after the request that failed.
func TestUpstreamWithoutConnectionIsListed(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t)) // which no other test gets meanwhile
	tr := newTransport(t, nil)
	if _, _, err := send(tr, newRequest(t, "GET", addr, nil)); err == nil {
		t.Fatal("a closed port answered")
	}
	poll.Until(t, "the failed dial is told", func() bool {
		states := statesOf(addr)
		return len(states) == 1 && states[0].DialErrors == 1 && states[0].Requests == 0
	})
}

// Pools are told of in one order, also the two of an upstream that differ in nothing but
// what they must not speak.
func TestStatesHaveOneOrder(t *testing.T) {
	srv, _ := tlsServer(t, "http/1.1")
	addr := srv.Listener.Addr().String()
	tr := newTransport(t, insecure)
	upgrade := newRequest(t, "GET", addr, nil)
	upgrade.Header.Set("Connection", "Upgrade")
	upgrade.Header.Set("Upgrade", "websocket")
	mustSend(t, tr, upgrade)
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	for range 100 {
		if states := statesOf(addr); len(states) != 2 || states[0].HTTP1Only || !states[1].HTTP1Only {
			t.Fatalf("states = %+v", states)
		}
	}
}

// What is told of pools that are gone is bounded, and those that were used last stay.
//
// Checklist: P28.
func TestRecordsAreBounded(t *testing.T) {
	tr := newTransport(t, func(tr *Transport) {
		tr.TLS = &reverseproxy.TLSConfig{ServerName: "{name}"}
	})
	up := tr.core.upstreams.get(upstreamKey{scheme: "https", network: "tcp", addr: "192.0.2.1:443"})
	for i := range maxRecords + 10 {
		tr.core.records.get(key{sni: fmt.Sprintf("made-up-%d.test", i)}, up)
		tr.core.records.get(key{sni: "real.test"}, up).count(func(s *stats) { s.opened++ })
	}
	if n := len(tr.core.records.all()); n != maxRecords {
		t.Errorf("%d records, want %d", n, maxRecords)
	}
	if n := tr.core.records.get(key{sni: "real.test"}, up).stats.opened; n != maxRecords+10 {
		t.Errorf("%d of %d counts are left of one that is in use", n, maxRecords+10)
	}
}
