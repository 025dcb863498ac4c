package misdirected

import (
	"crypto/tls"
	"fmt"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// TestHostileNames refuses 100 000 requests with as many server names and hosts,
// long ones: the memory in use, the metrics and what is remembered stay bounded.
func TestHostileNames(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector has memory of its own")
	}
	apps := `{` + testcaddy.TLSApp(t, `{}`, []string{"*.hostile.test"}) + `,"http":{"servers":{"srv0":{` + testcaddy.NoRedirects + `,
		"tls_connection_policies":[{}],
		"routes":[{"handle":[{"handler":"misdirected","scope":"certificate"}]}]}}}}`
	srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, apps, ""))
	ask := func(i int) {
		r := httptest.NewRequest("GET", "/", nil)
		// as large as a header may be; the host is a part of it
		header := strings.Repeat("x", 16<<10) + fmt.Sprintf("host-%d.%s.test", i, strings.Repeat("y", 60))
		r.Host = header[16<<10:]
		r.TLS = &tls.ConnectionState{ServerName: fmt.Sprintf("sni-%d.hostile.test", i)}
		srv.ServeHTTP(httptest.NewRecorder(), r)
	}
	series := func() (n int) {
		ch := make(chan prometheus.Metric, 1000)
		requests.Collect(ch)
		return len(ch)
	}
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for i := range 20_000 { // as many as fill what is kept
		ask(1_000_000 + i)
	}
	memory, metrics := inUse(), series()
	more := needs.InLong(100_000, 25_000)
	for i := range more {
		ask(10_000 + i)
	}
	if after := inUse(); after > memory+1<<20 {
		t.Errorf("%d KiB are in use after %d more names, %d before", after>>10, more, memory>>10)
	}
	if after := series(); after != metrics {
		t.Errorf("%d metrics after %d more names, %d before", after, more, metrics)
	}
	refused := Recent()
	sni := func(back int) string { return fmt.Sprintf("sni-%d.hostile.test", 10_000+more-1-back) }
	if len(refused) != recentRefusals || refused[0].SNI != sni(0) || refused[99].SNI != sni(99) {
		t.Errorf("%d refusals are remembered, from %s to %s", len(refused), refused[0].SNI, refused[len(refused)-1].SNI)
	}
}

// TestRefusals: the ring holds the last ones, the latest first, and cuts names.
func TestRefusals(t *testing.T) {
	var r refusals
	if list := r.list(); list == nil || len(list) != 0 {
		t.Errorf("an empty one lists %v", list)
	}
	r.add(Refusal{Host: strings.Repeat("a", 1000), SNI: "first"})
	r.add(Refusal{SNI: "second"})
	if list := r.list(); len(list) != 2 || list[0].SNI != "second" || list[1].SNI != "first" || len(list[1].Host) != longestName {
		t.Errorf("got %v", list)
	}
}
