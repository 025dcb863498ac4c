package upstreampool

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// Two transports to one upstream are told apart by the sites that use them, and by
// their settings where they stand in one site. Handlers with equal settings share a
// transport, which then tells of both sites.
func TestTransportsAreToldApart(t *testing.T) {
	s := serveRaw(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "x")
		}
	})
	stopCaddy(t)
	port := freePort(t)
	proxy := func(settings string) string {
		return fmt.Sprintf(`{"handler":"reverse_proxy","transport":{"protocol":"upstreampool"%s},"upstreams":[{"dial":%q}]}`, settings, s.addr())
	}
	site := func(host, handler string) string {
		return fmt.Sprintf(`{"match":[{"host":[%q]}],"handle":[{"handler":"subroute","routes":[{"handle":[%s]}]}],"terminal":true}`, host, handler)
	}
	config := fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"level":"PANIC"}}},
		"apps":{"http":{"servers":{"front":{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},"routes":[%s,%s,%s,%s]}}}}}`, port,
		site("a.test", proxy(`,"max_requests":100`)), site("b.test", proxy(`,"max_requests":200`)), site("c.test", proxy(`,"max_requests":100`)),
		`{"handle":[`+proxy(`,"max_requests":300`)+`]}`)
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Run(&cfg); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"a.test", "b.test", "c.test", "other.test"} {
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
		req.Host = host
		if resp, body := fetch(t, client(t, false), req); resp.StatusCode != 200 {
			t.Fatalf("%s: status %d, %q", host, resp.StatusCode, body)
		}
	}
	want := [][]string{{"a.test", "c.test"}, {"b.test"}, {"front"}}
	var got [][]string
	names := make(map[string]bool)
	for _, state := range statesOf(s.addr()) {
		got = append(got, state.Sites)
		names[state.Transport] = true
	}
	slices.SortFunc(got, slices.Compare)
	if !slices.EqualFunc(got, want, slices.Equal) || len(names) != len(want) {
		t.Errorf("rows of sites %v, with the transports %v, want sites %v", got, names, want)
	}
}
