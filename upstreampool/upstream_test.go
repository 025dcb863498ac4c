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
