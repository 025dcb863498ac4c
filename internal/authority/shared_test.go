package authority

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/cputime"
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
	tlsApp := testcaddy.TLSApp(t, `{}`, []string{"*.sw.test"}, []string{"alone.test"}, []string{"single.test"}, []string{"192.0.2.7"})
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
			ctx := testcaddy.Provision(t, `{`+tlsApp+`,"connreuse":{},"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,`+test.settings+`,"routes":[`+strings.Join(test.routes, ",")+`]}}}}`, "")
			app, err := ctx.App("connreuse")
			if err != nil {
				t.Fatal(err)
			}
			got := app.(*App).Warnings()
			for _, w := range got { // what is made up to ask for a wildcard is shown to nobody
				for _, field := range w.Fields {
					if strings.Contains(field.String, "connreuse") {
						t.Errorf("%s: %s", field.Key, field.String)
					}
				}
			}
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
	const limit = 500 * time.Millisecond
	n := race.Fewer(3000)
	for _, test := range manyOf {
		t.Run(test.name, func(t *testing.T) {
			_, server := provisioned(t, test.server(n))
			took := cputime.Of(t, func() { server.sharedWarnings(willManage("*.w.test")) })
			if took > limit && !race.Enabled {
				t.Errorf("they take %v", took)
			}
			t.Log(took)
		})
	}
}

// willManage is what Caddy will manage for one subject.
func willManage(subject string) managed {
	leaf := &x509.Certificate{DNSNames: []string{subject}}
	return managed{subject: {Certificate: tls.Certificate{Leaf: leaf}, Names: []string{subject}}}
}

// TestManaged: which certificate Caddy will have for a name, before it has any.
func TestManaged(t *testing.T) {
	const auto = `"automatic_https":{"disable_redirects":true}`
	for _, test := range []struct {
		name, auto, tls string
		hosts           string
		host            string
		want            string // subject; empty: none
	}{
		{"its own", auto, `{}`, `"a.mg.test"`, "a.mg.test", "a.mg.test"},
		{"upper case", auto, `{}`, `"A.mg.test"`, "a.mg.test", "a.mg.test"},
		{"a wildcard is enough", auto, `{}`, `"a.mg.test","*.mg.test"`, "a.mg.test", "*.mg.test"},
		{"a name that no site has", auto, `{}`, `"*.mg.test"`, "other.mg.test", "*.mg.test"},
		{"deeper than the wildcard", auto, `{}`, `"*.mg.test"`, "a.b.mg.test", ""},
		{"forced", auto, `{"certificates":{"automate":["a.mg.test"]}}`, `"a.mg.test","*.mg.test"`, "a.mg.test", "a.mg.test"},
		{"another is forced", auto, `{"certificates":{"automate":["b.mg.test"]}}`, `"a.mg.test","b.mg.test","*.mg.test"`, "a.mg.test", "*.mg.test"},
		{"on demand, a wildcard is none", auto, `{"automation":{"on_demand":{"permission":{"module":"http","endpoint":"http://localhost:1"}},"policies":[{"subjects":["*.mg.test"],"on_demand":true}]}}`, `"*.mg.test"`, "a.mg.test", ""},
		{"on demand, a name has its own", auto, `{"automation":{"on_demand":{"permission":{"module":"http","endpoint":"http://localhost:1"}},"policies":[{"on_demand":true}]}}`, `"a.mg.test","*.mg.test"`, "a.mg.test", "a.mg.test"},
		{"skipped", `"automatic_https":{"disable_redirects":true,"skip_certificates":["a.mg.test"]}`, `{}`, `"a.mg.test"`, "a.mg.test", ""},
		{"disabled", `"automatic_https":{"disable_redirects":true,"disable_certificates":true}`, `{}`, `"a.mg.test"`, "a.mg.test", ""},
		{"an address", auto, `{}`, `"192.0.2.9"`, "192.0.2.9", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := testcaddy.Provision(t, `{"tls":`+test.tls+`,"connreuse":{},"http":{"servers":{"srv0":{"listen":["127.0.0.1:8443"],`+test.auto+
				`,"tls_connection_policies":[{}],"routes":[{"match":[{"host":[`+test.hosts+`]}],"handle":[{"handler":"test_guard"}]}]}}}}`, "")
			app, err := ctx.App("connreuse")
			if err != nil {
				t.Fatal(err)
			}
			srv := testcaddy.HTTPServer(t, ctx)
			got := ""
			for _, cert := range newManaged(map[string]*caddyhttp.Server{"srv0": srv}, app.(*App).tls).find(test.host) {
				got += cert.Names[0]
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// TestWarningsLeaveNothingBehind: what was foreseen is no answer for requests.
func TestWarningsLeaveNothingBehind(t *testing.T) {
	app, server := provisioned(t, `"tls_connection_policies":[{}],"routes":[{"match":[{"host":["a.lb.test"]}],"handle":[{"handler":"test_guard"}]}]`)
	app.Warnings()
	server.sharedWarnings(willManage("a.lb.test"))
	snap := server.Snapshot()
	if snap.certificates.kept.get("a.lb.test") != nil {
		t.Error("a certificate is known")
	}
	if r := snap.Refuses("a.lb.test"); r.Answer != Unknown {
		t.Errorf("%+v", r)
	}
}
