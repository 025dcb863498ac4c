package authority

import (
	"strings"
	"testing"
)

// What may give a refusal another status is warned about at start.
func TestWarnsOfWhatChangesRefusals(t *testing.T) {
	const (
		policies = `"tls_connection_policies":[{}],`
		handing  = `{"handler":"test_guard","error_routes":true}`
		guard    = `{"handler":"test_guard"}`
	)
	site := func(host, handlers string) string {
		return `{"match":[{"host":["` + host + `"]}],"handle":[` + handlers + `],"terminal":true}`
	}
	errors := func(handlers string) string { return `"errors":{"routes":[` + site("a.test", handlers) + `]},` }
	intercepting := func(match, handle string) string {
		return `{"handler":"intercept","handle_response":[{` + match + handle + `}]}`
	}
	// Each of these named routes leads to all of them, ten times.
	var around []string
	for range 10 {
		around = append(around, `{"handler":"subroute","routes":[{"handle":[{"handler":"invoke","name":"n"},{"handler":"invoke","name":"m"}]}]}`)
	}
	everywhere := strings.Join(around, ",")
	cycles := func(last string) string {
		return `"named_routes":{"n":{"handle":[` + everywhere + `]},"m":{"handle":[` + everywhere + `,` + last + `]}},` + errors(`{"handler":"invoke","name":"n"}`)
	}
	for _, test := range []struct {
		name, server string
		want         string // "" is no warning
	}{
		{"error pages by a service", policies + errors(`{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:9"}]}`) + `"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"a redirect", policies + errors(`{"handler":"static_response","status_code":302}`) + `"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"abort", policies + errors(`{"handler":"static_response","abort":true}`) + `"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"below", policies + errors(`{"handler":"subroute","routes":[{"handle":[{"handler":"static_response","status_code":200}]}]}`) + `"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"in a named route", policies + `"named_routes":{"n":{"handle":[{"handler":"static_response","status_code":200}]}},` + errors(`{"handler":"invoke","name":"n"}`) + `"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"behind named routes that lead to each other", policies + cycles(`{"handler":"static_response","status_code":200}`) + `"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"nowhere in named routes that lead to each other", policies + cycles(`{"handler":"static_response"}`) + `"routes":[` + site("a.test", handing) + `]`, ""},
		{"the status of the error", policies + errors(`{"handler":"static_response","status_code":"{http.error.status_code}","body":"sorry"}`) + `"routes":[` + site("a.test", handing) + `]`, ""},
		{"no status is that of the error", policies + errors(`{"handler":"static_response","body":"sorry"}`) + `"routes":[` + site("a.test", handing) + `]`, ""},
		{"a page from a file", policies + errors(`{"handler":"rewrite","uri":"/{http.error.status_code}.html"},{"handler":"file_server"}`) + `"routes":[` + site("a.test", handing) + `]`, ""},
		{"another site's error routes", policies + errors(`{"handler":"static_response","status_code":200}`) + `"routes":[` + site("b.test", handing) + `]`, ""},
		{"handle_errors 5xx", policies + `"errors":{"routes":[{"match":[{"expression":"{http.error.status_code} >= 500 && {http.error.status_code} <= 599"}],"handle":[{"handler":"static_response","status_code":200}]}]},"routes":[` + site("a.test", handing) + `]`, ""},
		{"handle_errors 421", policies + `"errors":{"routes":[{"match":[{"expression":"{http.error.status_code} in [421]"}],"handle":[{"handler":"static_response","status_code":200}]}]},"routes":[` + site("a.test", handing) + `]`, "error routes|sites: a.test"},
		{"without error_routes", policies + errors(`{"handler":"static_response","status_code":200}`) + `"routes":[` + site("a.test", guard) + `]`, ""},
		{"strict_sni_host", policies + `"strict_sni_host":true,` + errors(`{"handler":"static_response","status_code":200}`) + `"routes":[` + site("a.test", guard) + `]`, "421 of strict_sni_host|sites: a.test"},
		{"intercept in front", policies + `"routes":[` + site("a.test", intercepting("", `"status_code":200`)+","+guard) + `]`, "intercept|sites: a.test"},
		{"intercept of 4xx in front", policies + `"routes":[` + site("a.test", intercepting(`"match":{"status_code":[4]},`, `"status_code":404`)+","+guard) + `]`, "intercept|sites: a.test"},
		{"intercept of 5xx in front", policies + `"routes":[` + site("a.test", intercepting(`"match":{"status_code":[5]},`, `"status_code":404`)+","+guard) + `]`, ""},
		{"intercept behind", policies + `"routes":[` + site("a.test", guard+","+intercepting("", `"status_code":200`)) + `]`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, snap := server(t, test.server)
			found := snap.changes()
			if test.want == "" && len(found) > 0 || test.want != "" && len(found) != 1 {
				t.Fatalf("%d warnings: %v", len(found), found)
			}
			for part := range strings.SplitSeq(test.want, "|") {
				if len(found) > 0 && !strings.Contains(text(found[0]), part) {
					t.Errorf("warning %q does not contain %q", text(found[0]), part)
				}
			}
		})
	}
}

// A certificate that leads browsers into refusals is warned about: at start where it
// is known, and for sites without a gate.
func TestWarnsOfSharedCertificates(t *testing.T) {
	const policies = `"tls_connection_policies":[{}],`
	own, cert := guardFor(`,"scope":"sni"`), guardFor(`,"scope":"certificate"`)
	wild := fakeCertificates{{"*.w.test"}}
	for _, test := range []struct {
		name         string
		server       string
		certificates fakeCertificates
		want         []string
		managed      managed
	}{
		{"one guarded site beside an open one", policies + `"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("b.w.test") + `]`, wild,
			[]string{"origin listener wrapper|sites: a.w.test", "withdraws HTTP/3|scope certificate|sites: b.w.test"}, nil},
		{"without HTTP/3", `"protocols":["h1","h2"],` + policies + `"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("b.w.test") + `]`, wild,
			[]string{"origin listener wrapper"}, nil},
		{"all guarded", policies + `"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("b.w.test", cert) + `]`, wild, []string{"origin listener wrapper"}, nil},
		{"nothing refused", policies + `"routes":[` + hostRoute("a.w.test", cert) + `,` + hostRoute("b.w.test", cert) + `]`, wild, nil, nil},
		{"only reported", policies + `"routes":[` + hostRoute("a.w.test", guardFor(`,"scope":"sni","report_only":true`)) + `,` + hostRoute("b.w.test") + `]`, wild, nil, nil},
		{"certificates of their own", policies + `"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("b.w.test", own) + `]`, fakeCertificates{{"a.w.test"}, {"b.w.test"}}, nil, nil},
		{"a wildcard that Caddy will manage", policies + `"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("*.w.test") + `]`, nil,
			[]string{"origin listener wrapper", "withdraws HTTP/3|sites: *.w.test"}, willManage("*.w.test")},
		{"nothing known", policies + `"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("b.w.test") + `]`, nil, nil, nil},
		{"strict_sni_host", policies + `"strict_sni_host":true,"routes":[` + hostRoute("a.w.test", own) + `,` + hostRoute("b.w.test") + `]`, wild, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := originServer(t, `"tls":{}`, test.server)
			test.certificates.install(server.Snapshot())
			for range 2 { // it may be asked more than once
				found := server.sharedWarnings(test.managed)
				if len(found) != len(test.want) {
					t.Fatalf("%d warnings, want %d: %v", len(found), len(test.want), found)
				}
				for i, parts := range test.want {
					for part := range strings.SplitSeq(parts, "|") {
						if got := text(found[i]); !strings.Contains(got, part) {
							t.Errorf("warning %q does not contain %q", got, part)
						}
					}
				}
			}
		})
	}
}
