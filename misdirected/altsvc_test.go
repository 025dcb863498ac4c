package misdirected

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// altSvc is a test of one server: what the responses of its sites say of HTTP/3.
type altSvc struct {
	name         string
	certificates [][]string
	// server is JSON of a server's routes and more.
	server string
	// clear are the requests, "SNI host", whose responses clear Alt-Svc; keep are
	// those that leave it.
	clear, keep []string
	// depends are the sites of which the admin API says that.
	depends []string
}

// route is that of a site which responds behind these handlers.
func route(host, handlers string) string {
	if handlers != "" {
		handlers += ","
	}
	return `{"match":[{"host":["` + strings.ReplaceAll(host, " ", `","`) + `"]}],"terminal":true,"handle":[` + handlers + `{"handler":"static_response","body":"ok"}]}`
}

const (
	gateSNI  = `{"handler":"misdirected"}`
	gateCert = `{"handler":"misdirected","scope":"certificate"}`
)

// A host that is refused on another's connection, and a site whose certificate
// covers such a host, offer no alternative service; all others keep theirs.
//
// Checklist: M27.
func TestAltSvcIsClearedWhereHTTP3LeadsIntoRefusals(t *testing.T) {
	one := [][]string{{"a.alt.test", "b.alt.test", "c.alt.test"}}
	for _, test := range []altSvc{
		{
			name:         "each site of one certificate for itself",
			certificates: one,
			server:       `"routes":[` + route("a.alt.test", gateSNI) + `,` + route("b.alt.test", gateSNI) + `]`,
			clear:        []string{"a.alt.test a.alt.test", "b.alt.test b.alt.test", "A.alt.test a.alt.test:443"},
		},
		{
			name:         "one guarded site beside open ones, which have no gate",
			certificates: one,
			server:       `"routes":[` + route("a.alt.test", gateSNI) + `,` + route("b.alt.test", "") + `]`,
			clear:        []string{"a.alt.test a.alt.test"},
			keep:         []string{"b.alt.test b.alt.test"},
		},
		{
			name:         "one guarded site beside open ones with the certificate's scope",
			certificates: one,
			server:       `"routes":[` + route("a.alt.test", gateSNI) + `,` + route("b.alt.test", gateCert) + `,` + route("c.alt.test", gateCert) + `]`,
			clear:        []string{"a.alt.test a.alt.test", "b.alt.test b.alt.test", "b.alt.test c.alt.test"},
		},
		{
			name:         "the certificate's scope for all",
			certificates: one,
			server:       `"routes":[` + route("a.alt.test", gateCert) + `,` + route("b.alt.test", gateCert) + `]`,
			keep:         []string{"a.alt.test a.alt.test", "a.alt.test b.alt.test"},
		},
		{
			name:         "certificates of their own",
			certificates: [][]string{{"a.alt.test"}, {"b.alt.test"}},
			server:       `"routes":[` + route("a.alt.test", gateSNI) + `,` + route("b.alt.test", gateSNI) + `]`,
			keep:         []string{"a.alt.test a.alt.test", "b.alt.test b.alt.test"},
		},
		{
			name:         "a guard that only reports",
			certificates: one,
			server: `"routes":[` + route("a.alt.test", `{"handler":"misdirected","report_only":true}`) + `,` +
				route("b.alt.test", gateCert) + `]`,
			keep: []string{"a.alt.test a.alt.test", "b.alt.test a.alt.test", "b.alt.test b.alt.test"},
		},
		{
			name:         "a guard that only reports, beside one that refuses",
			certificates: one,
			server: `"routes":[` + route("a.alt.test", `{"handler":"misdirected","report_only":true}`) + `,` +
				route("b.alt.test", gateSNI) + `]`,
			clear: []string{"a.alt.test a.alt.test", "b.alt.test a.alt.test", "c.alt.test a.alt.test"},
		},
		{
			name:         "alt_svc keep",
			certificates: one,
			server: `"routes":[` + route("a.alt.test", `{"handler":"misdirected","alt_svc":"keep"}`) + `,` +
				route("b.alt.test", gateSNI) + `]`,
			clear: []string{"b.alt.test b.alt.test"},
			keep:  []string{"a.alt.test a.alt.test"},
		},
		{
			name:         "a gate that does not run for each request",
			certificates: one,
			server: `"routes":[{"match":[{"host":["a.alt.test"]}],"terminal":true,"handle":[{"handler":"subroute","routes":[{"match":[{"path":["/guarded"]}],"handle":[` + gateSNI + `]}]}]},` +
				route("b.alt.test", gateSNI) + `]`,
			depends: []string{"a.alt.test"},
			clear:   []string{"b.alt.test b.alt.test"},
		},
		{
			name:   "a certificate that nobody knows",
			server: `"routes":[` + route("a.unknown.test", gateSNI) + `,` + route("b.unknown.test", gateSNI) + `]`,
			keep:   []string{"a.unknown.test a.unknown.test"},
		},
		{
			name:         "no HTTP/3",
			certificates: one,
			server:       `"protocols":["h1","h2"],"routes":[` + route("a.alt.test", gateSNI) + `,` + route("b.alt.test", gateSNI) + `]`,
			keep:         []string{"a.alt.test a.alt.test"},
		},
		{
			name:         "whatever answers behind the gate",
			certificates: one,
			server: `"errors":{"routes":[{"handle":[{"handler":"static_response","body":"sorry"}]}]},"routes":[` +
				route("a.alt.test", gateSNI+`,{"handler":"error","status_code":500}`) + `,` + route("b.alt.test", gateSNI) + `]`,
			clear: []string{"a.alt.test a.alt.test"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			// the certificates of the other cases stay in Caddy's cache
			name := strings.NewReplacer(".alt.test", "."+strings.ToLower(strings.NewReplacer(" ", "-", ",", "", "'", "", "/", "").Replace(test.name))+".alt.test")
			var issued [][]string
			for _, names := range test.certificates {
				names = slices.Clone(names)
				for i := range names {
					names[i] = name.Replace(names[i])
				}
				issued = append(issued, names)
			}
			tlsApp := ""
			if len(issued) > 0 {
				tlsApp = testcaddy.TLSApp(t, `{}`, issued...) + ","
			}
			ctx := testcaddy.Provision(t, `{`+tlsApp+`"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+
				`,"strict_sni_host":false,"tls_connection_policies":[{}],`+name.Replace(test.server)+`}}}}`, "")
			srv := testcaddy.HTTPServer(t, ctx)
			app, err := ctx.App("connreuse")
			if err != nil {
				t.Fatal(err)
			}
			told := make(map[string]string) // what the admin API says of each site
			sites, _ := app.(*authority.App).Server("srv0").Sites(10)
			for _, site := range sites {
				told[site.Name] = site.AltSvc
			}
			ask := func(pair string, want []string) {
				sni, host, _ := strings.Cut(name.Replace(pair), " ")
				if said := map[bool]string{true: "clear", false: "kept"}[want[0] == "clear"]; sni == host && told[host] != said {
					t.Errorf("of %s the admin API says %q, want %q", host, told[host], said)
				}
				for major := 1; major <= 3; major++ {
					r := httptest.NewRequest("GET", "/", nil)
					r.Host, r.ProtoMajor, r.TLS = host, major, testcaddy.Connection(srv, sni)
					w := httptest.NewRecorder()
					w.Header().Set("Alt-Svc", `h3=":443"`) // as Caddy does where it listens
					srv.ServeHTTP(w, r)
					if got := w.Header()["Alt-Svc"]; w.Code == 421 || !slices.Equal(got, want) {
						t.Errorf("SNI %s, host %s, HTTP/%d: %d with Alt-Svc %q, want %q", sni, host, major, w.Code, got, want)
					}
				}
			}
			for _, site := range test.depends {
				if got := told[name.Replace(site)]; got != "depends" {
					t.Errorf("of %s the admin API says %q, want depends", site, got)
				}
			}
			for _, pair := range test.clear {
				ask(pair, []string{"clear"})
			}
			for _, pair := range test.keep {
				ask(pair, []string{`h3=":443"`})
			}
		})
	}
}

// The shared value is nobody's to change.
func TestAltSvcValueIsShared(t *testing.T) {
	header := http.Header{"Alt-Svc": clearAltSvc}
	header.Add("Alt-Svc", `h3=":443"`)
	if !slices.Equal(clearAltSvc, []string{"clear"}) || cap(clearAltSvc) != 1 {
		t.Errorf("it is %q by now", clearAltSvc[:cap(clearAltSvc)])
	}
}
