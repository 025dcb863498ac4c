package authority

import (
	"strings"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// TestSharedWarnings: a certificate for several sites, of which some refuse what comes
// over connections for others.
func TestSharedWarnings(t *testing.T) {
	const (
		guard    = `{"handler":"test_guard"}`
		covering = `{"handler":"test_guard","scope":"certificate"}`
		report   = `{"handler":"test_guard","report_only":true}`
		plain    = `"tls_connection_policies":[{}],"strict_sni_host":false`
		noHTTP3  = `"protocols":["h1","h2"],` + plain
	)
	site := func(host, handlers string) string {
		return `{"match":[{"host":["` + host + `"]}],"handle":[` + handlers + `],"terminal":true}`
	}
	tls := testcaddy.TLSApp(t, `{}`, []string{"*.sw.test"}, []string{"alone.test"}, []string{"single.test"}, []string{"192.0.2.7"})
	for _, test := range []struct {
		name     string
		settings string
		routes   []string
		want     []string // what each warning contains, separated by |
	}{
		{"a certificate each", plain, []string{site("alone.test", guard), site("single.test", guard)}, nil},
		{"one for both", plain, []string{site("a.sw.test", guard), site("b.sw.test", guard)}, []string{"add the origin listener wrapper|a.sw.test, b.sw.test"}},
		{"which is accepted", plain, []string{site("a.sw.test", covering), site("b.sw.test", covering)}, nil},
		{"which is only reported", plain, []string{site("a.sw.test", report), site("b.sw.test", report)}, nil},
		{"one site of two is guarded", plain, []string{site("a.sw.test", ""), site("b.sw.test", guard)},
			[]string{"add the origin listener wrapper|b.sw.test", "put misdirected { scope certificate } into them|a.sw.test"}},
		{"without HTTP/3", noHTTP3, []string{site("a.sw.test", ""), site("b.sw.test", guard)}, []string{"add the origin listener wrapper|b.sw.test"}},
		{"the open site has a gate that accepts", plain, []string{site("a.sw.test", covering), site("b.sw.test", guard)}, []string{"add the origin listener wrapper|b.sw.test"}},
		{"a wildcard site beside a guarded one", plain, []string{site("b.sw.test", guard), site("*.sw.test", "")},
			[]string{"add the origin listener wrapper|b.sw.test", "put misdirected { scope certificate } into them|*.sw.test"}},
		{"strict_sni_host says it all", `"tls_connection_policies":[{}],"strict_sni_host":true`, []string{site("a.sw.test", guard), site("b.sw.test", guard)}, nil},
		{"an address that clients send no name for", plain, []string{site("192.0.2.7", guard)}, []string{"set default_sni to the address|192.0.2.7"}},
		{"no guard", plain, []string{site("a.sw.test", ""), site("b.sw.test", "")}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := testcaddy.Provision(t, `{`+tls+`,"connreuse":{},"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,`+test.settings+`,"routes":[`+strings.Join(test.routes, ",")+`]}}}}`, "")
			app, err := ctx.App("connreuse")
			if err != nil {
				t.Fatal(err)
			}
			got := app.(*App).Warnings()
			for _, w := range test.want {
				if len(got) == 0 {
					t.Fatalf("no warning has %q", w)
				}
				for part := range strings.SplitSeq(w, "|") {
					if !strings.Contains(text(got[0]), part) {
						t.Errorf("%q lacks %q", text(got[0]), part)
					}
				}
				got = got[1:]
			}
			for _, w := range got {
				if !strings.HasPrefix(w.Message, "strict_sni_host is on") {
					t.Errorf("too many: %s", text(w))
				}
			}
		})
	}
}

// TestSharedWarningsAreQuick: with thousands of sites, policies or blocks under one
// certificate they take a fraction of a second.
func TestSharedWarningsAreQuick(t *testing.T) {
	const n, limit = 3000, 500 * time.Millisecond
	for _, test := range manyOf {
		t.Run(test.name, func(t *testing.T) {
			_, server := provisioned(t, test.server(n))
			fakeCertificates{{"*.w.test"}}.install(server.Snapshot())
			took := cpuTime(t, func() { server.sharedWarnings() })
			if took > limit && !race.Enabled {
				t.Errorf("they take %v", took)
			}
			t.Log(took)
		})
	}
}
