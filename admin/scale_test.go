package admin

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"

	"github.com/caddy-connreuse/connreuse/internal/test/cputime"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// TestManySitesAndUpstreams asks each endpoint with 10 000 sites under one
// certificate and 1000 pools: none needs more than 50 ms of CPU time.
func TestManySitesAndUpstreams(t *testing.T) {
	const limit = 50 * time.Millisecond
	sites, pools := 10_000, race.Fewer(1000)
	if race.Enabled {
		sites = 2000 // more than an answer has
	}
	upstream := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer upstream.Close()
	port := testcaddy.FreePort(t)
	var routes []any
	for i := range sites {
		routes = append(routes, map[string]any{
			"match":    []any{map[string]any{"host": []string{fmt.Sprintf("host-%d.scale.test", i)}}},
			"handle":   []any{map[string]any{"handler": "misdirected", "scope": "certificate"}},
			"terminal": true,
		})
	}
	// A pool for each host: its name is the SNI.
	routes = append([]any{map[string]any{
		"match": []any{map[string]any{"path": []string{"/pool"}}}, "handle": []any{map[string]any{
			"handler":   "reverse_proxy",
			"upstreams": []any{map[string]any{"dial": upstream.Listener.Addr().String()}},
			"transport": map[string]any{
				"protocol": "upstreampool", "upstream_keep_alive": "100s", "max_idle_time": "90s",
				"tls": map[string]any{"server_name": "{http.request.host}", "insecure_skip_verify": true},
			},
		}},
	}}, routes...)
	text, err := json.Marshal(routes)
	if err != nil {
		t.Fatal(err)
	}
	config := testcaddy.Config(t, `{`+testcaddy.TLSApp(t, `{}`, []string{"*.scale.test"})+fmt.Sprintf(`,"http":{"servers":{"scale":{
		"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},"tls_connection_policies":[{}],
		"listener_wrappers":[{"wrapper":"origin","origins":["sites"]}],"routes":%s}}}}`, port, text), "")
	if err := caddy.Run(config); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	}()

	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{ServerName: "a.scale.test", InsecureSkipVerify: true},
		ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < pools; i += 8 {
				req, _ := http.NewRequest("GET", fmt.Sprintf("https://127.0.0.1:%d/pool", port), nil)
				req.Host = fmt.Sprintf("pool-%d.test", i)
				resp, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("request %d: %s", i, resp.Status)
					return
				}
			}
		})
	}
	wg.Wait()

	w := httptest.NewRecorder()
	if err := endpointAt(t, "upstreams").ServeHTTP(w, httptest.NewRequest("GET", base+"upstreams", nil)); err != nil {
		t.Fatal(err)
	}
	large := w.Body.Bytes()
	for _, test := range []struct {
		path  string
		check func([]byte) bool // that the answer is a large one
	}{
		{"upstreams", func(b []byte) bool {
			var u Upstreams
			return json.Unmarshal(b, &u) == nil && len(u.Pools) >= pools // those of other tests are remembered
		}},
		{"origins", func(b []byte) bool {
			var o Origins
			return json.Unmarshal(b, &o) == nil && len(o.Connections) == mostSites && o.More == sites-mostSites
		}},
		{"origins?sni=a.scale.test", func(b []byte) bool {
			var o Origins
			return json.Unmarshal(b, &o) == nil && len(o.Connections[0].Origins) == 32 && len(o.Connections[0].LeftOut) == 1000
		}},
		{"sites", func(b []byte) bool {
			var s Sites
			return json.Unmarshal(b, &s) == nil && len(s.Sites) == mostSites && s.Sites[0].CoversMore == sites-1-20
		}},
		{"history", func(b []byte) bool { return json.Unmarshal(b, new(History)) == nil }},
		{"misdirected", func([]byte) bool { return true }},
		{"explain?sni=a.scale.test&host=host-7.scale.test", func(b []byte) bool { return len(b) > 500 }},
		{"", func(b []byte) bool { return len(b) > 1000 }},
	} {
		// Of several rounds the middle one counts: one may collect garbage, and what is
		// fast once only, by an answer that was kept, is not fast.
		const rounds = 9
		var answers, readings []time.Duration
		for range rounds {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", base+test.path, nil)
			var err error
			answers = append(answers, cputime.Of(t, func() {
				if test.path == "" {
					err = servePage(w, r)
				} else {
					err = endpointAt(t, r.URL.Path[len(base):]).ServeHTTP(w, r)
				}
			}))
			if err != nil || !test.check(w.Body.Bytes()) {
				t.Fatalf("%s: %v, %d bytes: %.300s", test.path, err, w.Body.Len(), w.Body)
			}
			readings = append(readings, cputime.Of(t, func() { _ = json.Unmarshal(large, new(Upstreams)) }))
		}
		slices.Sort(answers)
		slices.Sort(readings)
		answer, reading := answers[rounds/2], readings[rounds/2]
		t.Logf("/connreuse/%s: %v (reading a large answer takes %v)", test.path, answer, reading)
		// A slow machine takes as long to read an answer.
		if answer > max(limit, 5*reading) && !race.Enabled {
			t.Errorf("/connreuse/%s needs %v, more than %v", test.path, answer, limit)
		}
	}
}
