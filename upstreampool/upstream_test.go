package upstreampool

import (
	"strconv"
	"testing"
)

func TestUpstreamsAreBounded(t *testing.T) {
	us := upstreams{make: func(k upstreamKey) *upstream { return &upstream{key: k} }}
	key := func(i int) upstreamKey { return upstreamKey{scheme: "http", addr: strconv.Itoa(i)} }
	first, second := us.get(key(0)), us.get(key(1))
	for i := range maxUpstreams {
		us.get(key(i))
		if us.get(key(0)) != first {
			t.Fatal("the upstream in use was forgotten")
		}
	}
	us.get(key(maxUpstreams)) // one too many
	if n := len(us.byKey); n != maxUpstreams || us.order.Len() != n {
		t.Errorf("%d upstreams are known, %d in order; want %d", n, us.order.Len(), maxUpstreams)
	}
	if us.get(key(1)) == second {
		t.Error("the least recently used upstream was kept")
	}
}

// Clients that choose thousands of addresses cost the upstream that is in steady use
// neither its metrics nor what was learned of it.
func TestUpstreamInUseIsKnown(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	p := onlyPool(t, tr)
	for i := range 2 * maxUpstreams {
		tr.core.upstreams.get(upstreamKey{scheme: "http", network: "tcp", addr: strconv.Itoa(i)})
	}
	if tr.core.upstreams.get(p.up.key) != p.up {
		t.Error("it is another one")
	}
	if _, ok := metric(t, "caddy_upstreampool_requests_total", map[string]string{"upstream": s.addr()}); !ok {
		t.Error("its metrics are gone")
	}
	if n := len(tr.core.upstreams.byKey); n > maxUpstreams {
		t.Errorf("%d upstreams", n)
	}
	eventually(t, "the connection is back", func() bool { return tr.core.group.Idle() == 1 })
	up := p.up
	p.Drain()
	eventually(t, "the pool is gone", func() bool { return up.pools.Load() == 0 })
}
