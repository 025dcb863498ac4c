package authority

import (
	"testing"
)

// Spellings of a host are told apart by matchers and handlers that compare it as it was
// sent. They matter where client certificates keep some hosts apart.
func TestDiscernsSpelling(t *testing.T) {
	const (
		walled = `"strict_sni_host":false,"tls_connection_policies":[{"match":{"sni":["a.test"]}},{"client_authentication":{"mode":"require"}}]`
		alike  = `"tls_connection_policies":[{"client_authentication":{"mode":"require"}}]`
		drops  = `"tls_connection_policies":[{"match":{"sni":["b.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},"drop":true},{}]`
	)
	by := func(matcher string) string { return `{"match":[` + matcher + `],"handle":[{"handler":"test_guard"}]}` }
	with := func(handler string) string { return `{"handle":[` + handler + `]}` }
	for _, test := range []struct {
		name, policies, route string
		forms, letters        bool
	}{
		{"not host", walled, by(`{"not":[{"host":["a.test"]}]}`), true, false},
		{"not not host", walled, by(`{"not":[{"not":[{"host":["a.test"]}]}]}`), true, false},
		{"not host where all are asked alike", alike, by(`{"not":[{"host":["a.test"]}]}`), false, false},
		{"not host where some are dropped", drops, by(`{"not":[{"host":["a.test"]}]}`), true, false},
		{"host alone is looked at elsewhere", walled, by(`{"host":["a.test"]}`), false, false},
		{"not path", walled, by(`{"not":[{"path":["/host"]}]}`), false, false},
		{"expression on the host", walled, by(`{"expression":"{http.request.host} == 'a.test'"}`), true, true},
		{"expression with host()", walled, by(`{"expression":"!host('a.test')"}`), true, true},
		{"expression on something else", walled, by(`{"expression":"{http.request.uri.path} == '/hosts'"}`), false, false},
		{"vars on a label", walled, by(`{"vars":{"{http.request.host.labels.1}":["a"]}}`), true, true},
		{"header Host", walled, by(`{"header":{"Host":["a.test"]}}`), true, true},
		{"header_regexp Host", walled, by(`{"header_regexp":{"Host":{"pattern":"^a"}}}`), true, true},
		{"another header", walled, by(`{"header":{"X-Host-Id":["a.test"]}}`), false, false},
		{"a map by the host", walled, with(`{"handler":"map","source":"{http.request.host}","destinations":["{x}"]}`), true, true},
		{"a folder by the host", walled, with(`{"handler":"vars","root":"/srv/{http.request.host}"}`), true, true},
		{"a folder", walled, with(`{"handler":"vars","root":"/srv/hosting"}`), false, false},
		{"in a subroute", walled, with(`{"handler":"subroute","routes":[` + by(`{"not":[{"host":["a.test"]}]}`) + `]}`), true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, server := provisioned(t, test.policies+`,"routes":[`+test.route+`,`+oneGuard+`]`)
			s := server.Snapshot()
			if s.DiscernsSpelling() != test.forms || s.DiscernsCase() != test.letters {
				t.Errorf("spelling %t, case %t; want %t, %t", s.DiscernsSpelling(), s.DiscernsCase(), test.forms, test.letters)
			}
		})
	}
}
