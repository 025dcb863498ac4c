package upstreampool

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// A logged line is what the access log says of a request.
type logged struct {
	Status      int    `json:"status"`
	Connection  string `json:"connection"`
	LimitSource string `json:"limit_source"`
	Replay      string `json:"replay"`

	// In seconds, or "" where there was no connection.
	Idle    any `json:"idle"`
	Wait    any `json:"wait"`
	Connect any `json:"connect"`
}

// logFacts runs a Caddy whose access log has all facts, and returns its address and
// what reads the next line.
func logFacts(t *testing.T, proxy string) (url string, next func() logged) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.log")
	var fields strings.Builder
	for _, name := range factNames {
		fmt.Fprintf(&fields, "log_append %s {http.upstreampool.%[1]s}\n", name)
	}
	port := freePort(t)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `{
		admin off
		persist_config off
		auto_https off
		storage file_system %q
		log default {
			output discard
		}
	}
	http://127.0.0.1:%d {
		log {
			output file %q
		}
		%s
		%s
	}`, storageOf(t), port, file, &fields, proxy), nil)
	if err != nil {
		t.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(adapted, &cfg); err != nil {
		t.Fatal(err)
	}
	stopCaddy(t)
	if err := caddy.Run(&cfg); err != nil {
		t.Fatal(err)
	}
	read := 0
	return fmt.Sprintf("http://127.0.0.1:%d/", port), func() (l logged) {
		t.Helper()
		var lines []string
		eventually(t, "a line in the access log", func() bool {
			b, _ := os.ReadFile(file)
			lines = strings.SplitAfter(string(b), "\n")
			return len(lines) > read+1
		})
		if err := json.Unmarshal([]byte(lines[read]), &l); err != nil {
			t.Fatal(err)
		}
		read++
		return l
	}
}

// The access log says which connection a request took: a new one, which took time to
// open and was waited for, or one from the pool, and what was known of that.
func TestFactsInTheAccessLog(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "ok", "Connection: keep-alive", "Keep-Alive: timeout=60")
		}
	})
	url, next := logFacts(t, "reverse_proxy "+s.addr()+" {\n transport upstreampool\n }")
	get := func() {
		t.Helper()
		req, _ := http.NewRequest("GET", url, nil)
		fetch(t, client(t, false), req)
	}
	get()
	first := next()
	if wait, _ := first.Wait.(float64); wait <= 0 || first.Connection != "new" || first.LimitSource != "" || first.Replay != "" || first.Idle != 0.0 {
		t.Errorf("on a new connection: %+v", first)
	}
	if connect, _ := first.Connect.(float64); connect <= 0 || connect > first.Wait.(float64) {
		t.Errorf("on a new connection: %+v", first)
	}
	eventually(t, "the connection is back", func() bool {
		return slices.ContainsFunc(States(), func(p PoolState) bool { return p.Upstream == s.addr() && p.Connections["idle"] == 1 })
	})
	time.Sleep(20 * time.Millisecond) // it is idle for as long at least
	get()
	second := next()
	if idle, _ := second.Idle.(float64); idle < 0.02 || second.Connection != "reused" || second.LimitSource != "announced" ||
		second.Replay != "" || second.Wait != 0.0 || second.Connect != 0.0 {
		t.Errorf("on a reused connection: %+v", second)
	}
}

// Of a replayed request, the facts are those of the attempt that was answered, and
// why there was one.
func TestFactsOfAReplay(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for i := 0; fake.ReadRequest(r) != nil && (n > 1 || i == 0); i++ {
			fake.Respond(c, "ok")
		}
	})
	url, next := logFacts(t, "reverse_proxy "+s.addr()+" {\n transport upstreampool\n }")
	for range 2 {
		req, _ := http.NewRequest("GET", url, nil)
		fetch(t, client(t, false), req)
	}
	next()
	if l := next(); l.Status != 200 || l.Connection != "new" || l.Replay != "no_response" || l.Idle != 0.0 {
		t.Errorf("of a replayed request: %+v", l)
	}
}

// With lb_retries each try has facts of its own. The last one counts.
func TestFactsOfTheLastTry(t *testing.T) {
	down := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "ok")
		}
	})
	proxy := func(upstreams string) string {
		return "reverse_proxy " + upstreams + ` {
			lb_policy first
			lb_retries 2
			fail_duration 1m
			transport upstreampool
		}`
	}
	for _, tc := range []struct {
		name, upstreams, connection string
		status                      int
	}{
		{"another upstream answers", down + " " + s.addr(), "new", 200},
		{"there is no connection", down, "", 502},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url, next := logFacts(t, proxy(tc.upstreams))
			req, _ := http.NewRequest("GET", url, nil)
			fetch(t, client(t, false), req)
			l := next()
			if l.Connection != tc.connection || l.Status != tc.status || (l.Wait == "") != (tc.connection == "") {
				t.Errorf("the log says %+v", l)
			}
		})
	}
}

// Active health checks have a Replacer that belongs to no request, or none: nothing
// is told of them. Neither of requests without one.
func TestNoFactsOfHealthChecks(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "ok")
		}
	})
	tr := newTransport(t, known)
	for name, keys := range map[string]map[caddy.CtxKey]any{
		"a health check":     {caddyhttp.VarsCtxKey: nil, caddy.ReplacerCtxKey: caddy.NewEmptyReplacer()},
		"without a Replacer": {caddy.ReplacerCtxKey: nil},
	} {
		req := newRequest(t, "GET", s.addr(), nil)
		ctx := req.Context()
		for k, v := range keys {
			ctx = context.WithValue(ctx, k, v)
		}
		mustSend(t, tr, req.WithContext(ctx))
		if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			if v, told := repl.Get(factsPrefix + "connection"); told {
				t.Errorf("%s: %v", name, v)
			}
		}
	}
	req := newRequest(t, "GET", s.addr(), nil)
	mustSend(t, tr, req)
	repl := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if v, _ := repl.Get(factsPrefix + "connection"); v != "reused" {
		t.Errorf("of a client's request: %v", v)
	}
	if v, told := repl.Get(factsPrefix + "nothing"); told {
		t.Errorf("an unknown fact is %v", v)
	}
}
