package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// A scenario is a page that asks some hosts, one after the other, and what it
// is served by.
type scenario struct {
	gate   string // block of misdirected
	origin string // block of the origin listener wrapper; "-" is no wrapper
	hosts  []string
	rounds int
	method string
	// addresses of the hosts: all on 127.0.0.1, or each on one of its own
	apart bool
}

// browse starts Caddy and lets a browser visit a page there that runs the
// scenario. ORIGIN frames are of HTTP/2, so HTTP/3 is off in the browser here.
func browse(t *testing.T, b browser.Browser, s scenario) browser.Visit {
	t.Helper()
	needBrowser(t, b)
	var addresses []string
	byHost := make(map[string]string)
	for i, host := range s.hosts {
		address := "127.0.0.1"
		if s.apart {
			address = fmt.Sprintf("127.0.0.%d", i+1)
		}
		byHost[host] = address
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}

	options := "servers {\n\t\tstrict_sni_host insecure_off\n\t}"
	if s.origin != "-" {
		options = fmt.Sprintf("servers {\n\t\tstrict_sni_host insecure_off\n\t\tlistener_wrappers {\n\t\t\torigin {\n\t\t\t\t%s\n\t\t\t}\n\t\t}\n\t}", s.origin)
	}
	script := fmt.Sprintf(`<!doctype html><script>
(async () => {
	for (let round = 0; round < %d; round++)
		for (const host of %s)
			await fetch("https://" + host + ":" + location.port + "/round-" + round, {method: %q, mode: "no-cors", credentials: "include", body: %s});
	await fetch("/done", {method: "POST"});
})();
</script>`, s.rounds, mustJSON(s.hosts), cmp.Or(s.method, "GET"), map[bool]string{true: `"x".repeat(3000000)`, false: "undefined"}[s.method == "POST"])
	sites := ""
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		sites += fmt.Sprintf(`
%s {
	log
	bind %s
	misdirected {
		%s
	}
	header Cache-Control no-store
	handle /page {
		header Content-Type text/html
		respond <<PAGE
			%s
			PAGE
	}
	respond ok
}
`, host, strings.Join(addresses, " "), s.gate, strings.ReplaceAll(script, "\n", "\n\t\t\t"))
	}
	sites += fmt.Sprintf("\n*.site.test {\n\tbind %s\n\tmisdirected\n}\n", strings.Join(addresses, " "))
	c := startCaddy(t, options, sites, s.hosts[:1])

	return visit(t, c, b, browser.Options{Home: t.TempDir(), Root: c.root(), Hosts: byHost, NoHTTP3: true}, "https://"+s.hosts[0]+":"+c.port+"/page")
}

// needBrowser skips the test, or fails it in CI, where a program is missing that
// the browser takes.
func needBrowser(t *testing.T, b browser.Browser) {
	t.Helper()
	for program, debianPackage := range b.Packages {
		needs.Program(t, program, debianPackage)
	}
}

// visit lets a browser visit a page of a Caddy that has logged nothing else yet.
func visit(t *testing.T, c *caddy, b browser.Browser, o browser.Options, url string) browser.Visit {
	t.Helper()
	ctx, done := browsing(t)
	defer done()
	v, err := b.Visit(ctx, o, url, c.log.String)
	if errors.Is(err, browser.ErrRoot) {
		needs.Root(t, "a hosts file for Firefox alone")
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// turns are for browsers to take: each keeps a processor busy.
var turns = make(chan struct{}, max(2, runtime.GOMAXPROCS(0)))

// browsing waits for a browser's turn, and returns the context of what it does then,
// and what ends both.
func browsing(t *testing.T) (ctx context.Context, done func()) {
	turns <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	return ctx, func() {
		cancel()
		<-turns
	}
}

// root is the file of Caddy's CA.
func (c *caddy) root() string {
	return filepath.Join(c.dir, "caddy", "pki", "authorities", "local", "root.crt")
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

var (
	threeHosts = []string{"a.site.test", "b.site.test", "c.site.test"}
	fourHosts  = []string{"a.site.test", "b.site.test", "c.site.test", "d.site.test"}
)

// Firefox obeys ORIGIN frames of HTTP/2: they spare it connections, and 421s.
func TestFirefoxObeysFrames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		scenario
		check func(v browser.Visit) bool
		want  string
	}{
		{"hosts at different addresses, without frames", scenario{gate: "scope certificate", origin: "-", hosts: fourHosts, rounds: 2, apart: true},
			func(v browser.Visit) bool { return len(v.Connections) == 4 && v.Statuses[421] == 0 }, "4 connections"},
		{"hosts at different addresses, with frames", scenario{gate: "scope certificate", origin: "origins sites", hosts: fourHosts, rounds: 2, apart: true},
			func(v browser.Visit) bool { return len(v.Connections) == 1 && v.Statuses[421] == 0 }, "1 connection"},
		{"scope sni, without frames", scenario{gate: "scope sni", origin: "-", hosts: threeHosts, rounds: 6},
			func(v browser.Visit) bool { return v.Statuses[421] >= 3 && len(v.Connections) > 3 }, "421s and more than 3 connections"},
		{"scope sni, with frames", scenario{gate: "scope sni", hosts: threeHosts, rounds: 6},
			func(v browser.Visit) bool { return v.Statuses[421] == 0 && len(v.Connections) == 3 }, "3 connections and no 421"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := browse(t, browser.Firefox, test.scenario)
			t.Log(v)
			if !test.check(v) {
				t.Errorf("%v, want %s", v, test.want)
			}
			checkAnswers(t, v, test.scenario)
		})
	}
}

// A name that is listed, but not covered by the certificate, is not used.
func TestFirefoxListedNameOutsideCertificate(t *testing.T) {
	t.Parallel()
	s := scenario{gate: "scope certificate", hosts: []string{"a.site.test", "b.site.test", "other.test"}, rounds: 2, apart: true}
	s.origin = "origins https://b.site.test:{$PORT} https://other.test:{$PORT}"
	v := browse(t, browser.Firefox, s)
	t.Log(v)
	for port, hosts := range v.Connections {
		if slices.Contains(hosts, "other.test") && len(hosts) > 1 {
			t.Errorf("connection %s carried %v", port, hosts)
		}
	}
	if len(v.Connections) != 2 || v.Statuses[421] != 0 {
		t.Errorf("%v, want 2 connections and no 421", v)
	}
	checkAnswers(t, v, s)
}

// Chromium ignores ORIGIN frames in HTTP/2 and asks again after a 421, for any
// method.
func TestChromiumIgnoresFrames(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		scenario
		same bool // the counts are the same with frames and without
	}{
		{"hosts at different addresses", scenario{gate: "scope certificate", hosts: fourHosts, rounds: 2, apart: true}, true},
		{"one address", scenario{gate: "scope certificate", hosts: fourHosts, rounds: 2}, true},
		{"421 and GET", scenario{gate: "scope sni", hosts: threeHosts, rounds: 2}, false},
		{"421 and POST of 3 MB", scenario{gate: "scope sni", hosts: threeHosts, rounds: 2, method: "POST"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			with := browse(t, browser.Chromium, test.scenario)
			test.scenario.origin = "-"
			without := browse(t, browser.Chromium, test.scenario)
			t.Logf("with frames: %v; without: %v", with, without)
			checkAnswers(t, with, test.scenario)
			checkAnswers(t, without, test.scenario)
			if test.same && (len(with.Connections) != len(without.Connections) || with.Statuses[421]+without.Statuses[421] != 0) {
				t.Errorf("with frames: %v; without: %v; want the same", with, without)
			}
			if !test.same && (with.Statuses[421] == 0 || without.Statuses[421] == 0) {
				t.Errorf("no 421, so this shows nothing: %v; %v", with, without)
			}
		})
	}
}

// checkAnswers: whatever it took, each request was answered 200 once.
func checkAnswers(t *testing.T, v browser.Visit, s scenario) {
	t.Helper()
	for i, host := range s.hosts {
		want := s.rounds
		if i == 0 {
			want++ // the page
		}
		if v.Answered[host] != want {
			t.Errorf("%s answered %d requests, want %d: %v", host, v.Answered[host], want, v)
		}
	}
}
