package integration

import (
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

const withOrigin = `servers {
		strict_sni_host insecure_off
		listener_wrappers {
			origin {
				origins sites
			}
		}
	}
	default_sni o.y.test`

// TestAdvertisedIsNeverRefused: what a connection is told of is not refused there, nor is its own name;
// and what is not told of is refused, or not covered.
//
// Checklist: M23.
func TestAdvertisedIsNeverRefused(t *testing.T) {
	for gate, want := range map[string][]string{
		"scope sni":                  {},
		"scope certificate":          {"b.x.test", "post.x.test"},
		"share a.x.test b.x.test":    {"b.x.test"},
		"share a.x.test m.x.test":    {}, // crosses from one TLS policy to another
		"share a.x.test o.y.test":    {}, // the certificate does not cover it
		"missing_sni reject":         {},
		"report_only":                {},
		"trusted_gateways 0.0.0.0/0": {},
	} {
		t.Run(gate, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, withOrigin, sites(gate, ""), siteNames)
			conn := dialH2(t, c.addr, clientTLS("a.x.test")).(*h2)
			if got := conn.do(ask{authority: "a.x.test"}); got.status != 200 {
				t.Errorf("the connection's own name: %v", got)
			}
			var names []string
			for _, origin := range conn.origins {
				name, found := strings.CutSuffix(strings.TrimPrefix(origin, "https://"), ":"+c.port)
				if !found {
					t.Errorf("origin %s has another port than %s", origin, c.port)
				}
				names = append(names, name)
				if got := conn.do(ask{authority: name}); got.status == 421 || got.reset != "" {
					t.Errorf("advertised %s: %v", name, got)
				}
			}
			if !conn.sawOrigin || !slices.Equal(names, want) && len(names)+len(want) > 0 {
				t.Errorf("advertised (frame: %t): %v, want %v", conn.sawOrigin, names, want)
			}
		})
	}
}

// Clients that know ORIGIN frames understand ours, and others do not mind.
func TestOriginClients(t *testing.T) {
	c := startCaddy(t, withOrigin, `
localhost {
	respond ok
}
a.site.test {
	misdirected {
		scope certificate
	}
	respond a
}
b.site.test {
	misdirected {
		scope certificate
	}
	respond b
}
*.site.test {
	misdirected
}
`, []string{"a.site.test"})

	t.Run("Node", func(t *testing.T) {
		node := needs.Program(t, "node", "nodejs")
		out, err := exec.Command(node, "-e", `
const session = require("node:http2").connect("https://a.site.test:" + process.argv[1], {
	rejectUnauthorized: false,
	lookup: (host, options, done) => options.all ? done(null, [{address: "127.0.0.1", family: 4}]) : done(null, "127.0.0.1", 4),
});
session.on("origin", (origins) => {
	console.log(JSON.stringify({origins, set: session.originSet}));
	session.close();
});
setTimeout(() => process.exit(1), 10000).unref();
`, c.port).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var got struct{ Origins, Set []string }
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		a, b := "https://a.site.test:"+c.port, "https://b.site.test:"+c.port
		slices.Sort(got.Set)
		if !slices.Equal(got.Origins, []string{b}) || !slices.Equal(got.Set, []string{a, b}) {
			t.Errorf("origin event %v, originSet %v; want %s, and with %s", got.Origins, got.Set, b, a)
		}
	})

	t.Run("nghttp", func(t *testing.T) {
		nghttp := needs.Program(t, "nghttp", "nghttp2-client")
		out, err := exec.Command(nghttp, "-nv", "--no-verify-peer", "https://localhost:"+c.port+"/").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "recv ORIGIN frame <length=") || !strings.Contains(string(out), ":status: 200") {
			t.Errorf("%v: %s", err, out)
		}
	})

	t.Run("curl", func(t *testing.T) {
		curl := needs.Program(t, "curl", "curl")
		for _, flags := range [][]string{{"--http2"}, {"--http1.1"}, {"--http2", "--tls-max", "1.2"}} {
			args := append(flags, "-sk", "--resolve", "a.site.test:"+c.port+":127.0.0.1", "-w", " %{http_code} %{http_version}", "https://a.site.test:"+c.port+"/")
			out, err := exec.Command(curl, args...).CombinedOutput()
			want := map[bool]string{true: "a 200 1.1", false: "a 200 2"}[flags[0] == "--http1.1"]
			if err != nil || string(out) != want {
				t.Errorf("%v: %v, %q; want %q", flags, err, out, want)
			}
		}
	})

	t.Run("Go", func(t *testing.T) {
		transport := &http.Transport{TLSClientConfig: clientTLS("a.site.test", "h2"), ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(must(http.NewRequest("GET", "https://"+c.addr+"/", nil)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Errorf("answered by %s", resp.Proto)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestH2specResultsAreTheSame: the conformance suite has the same results with the wrapper as
// without. It goes by timeouts, and on a busy machine a case can fail for that
// alone: one counts as failed if it fails three times.
//
// Checklist: O12.
func TestH2specResultsAreTheSame(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	h2spec := filepath.Join(t.TempDir(), "h2spec")
	if out, err := exec.Command("go", "-C", "../tools", "build", "-o", h2spec, "github.com/summerwind/h2spec/cmd/h2spec").CombinedOutput(); err != nil {
		t.Fatalf("building h2spec: %v: %s", err, out)
	}
	const site = "\nlocalhost {\n\trespond \"a body of some length\"\n}\n"
	with := startCaddy(t, withOrigin, site, []string{"localhost"})
	without := startCaddy(t, strictOff, site, []string{"localhost"})
	withFailed, withoutFailed := conformance(t, h2spec, with, without)
	for try := 0; try < 2 && !maps.Equal(withFailed, withoutFailed); try++ {
		withAgain, withoutAgain := conformance(t, h2spec, with, without)
		failedAgain(withFailed, withAgain)
		failedAgain(withoutFailed, withoutAgain)
	}
	failed := 0
	for name, failedWithout := range withoutFailed {
		if failedWithout {
			failed++
		}
		if failedWith, ok := withFailed[name]; !ok || failedWith != failedWithout {
			t.Errorf("%s: fails with the wrapper: %t, without: %t", name, failedWith, failedWithout)
		}
	}
	if len(withFailed) != len(withoutFailed) || len(withFailed) < 100 {
		t.Errorf("%d cases with the wrapper, %d without, want the same and more than 100", len(withFailed), len(withoutFailed))
	}
	t.Logf("%d cases, %d of which fail with and without the wrapper", len(withFailed), failed)
}

// failedAgain leaves as failed what failed in both runs.
func failedAgain(failed, again map[string]bool) {
	for name := range failed {
		failed[name] = failed[name] && again[name]
	}
}

// conformance tests both at the same time: each mostly waits for what must not come.
func conformance(t *testing.T, h2spec string, with, without *caddy) (withFailed, withoutFailed map[string]bool) {
	t.Helper()
	report := func(c *caddy) string { return filepath.Join(c.dir, "report.xml") }
	var both sync.WaitGroup
	for _, c := range []*caddy{with, without} {
		both.Go(func() {
			// exit status 1 is a failed case: stock Caddy has some, too
			out, err := exec.Command(h2spec, "-t", "-k", "-h", "localhost", "-p", c.port, "-o", "2", "-j", report(c)).CombinedOutput()
			if _, none := os.Stat(report(c)); none != nil {
				t.Errorf("h2spec: %v: %s", err, out)
			}
		})
	}
	both.Wait()
	return failedCases(t, report(with)), failedCases(t, report(without))
}

// failedCases reads a report of h2spec's: of each case, by name, whether it failed.
func failedCases(t *testing.T, report string) map[string]bool {
	t.Helper()
	data, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	// The next run leaves one of its own, or none.
	if err := os.Remove(report); err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &parsed); err != nil {
		t.Fatal(err)
	}
	failed := make(map[string]bool)
	for _, suite := range parsed.Suites {
		for _, c := range suite.Cases {
			failed[c.Package+" "+c.Name] = c.Failure != nil || c.Error != nil
		}
	}
	return failed
}
