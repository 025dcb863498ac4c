package authority

import (
	"maps"
	"slices"
	"strings"
	"testing"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// A name that anybody may ask for stands in a host matcher that no matcher on who the
// client is stands beside, or around.
//
// Checklist: O17.
func TestOpenNames(t *testing.T) {
	nested := func(match, inner string) string {
		return `{"match":[` + match + `],"handle":[{"handler":"subroute","routes":[{"match":[` + inner + `]}]}]}`
	}
	const any = `{"host":["*.open.test"]}`
	for _, test := range []struct{ name, routes, want string }{
		{"a site", hostRoute("a.test b.test"), "a.test b.test"},
		{"a wildcard is no name", hostRoute("*.a.test a.test"), "a.test"},
		{"no canonical name", hostRoute("a.test. b.test"), "b.test"},
		{"nested", nested(any, `{"host":["x.open.test"]}`), "x.open.test"},
		{"nested where no request for it comes", nested(`{"host":["a.test"]}`, `{"host":["x.open.test"]}`), "a.test"},
		{"inside not", `{"match":[{"not":[{"host":["a.test"]}]}]}`, ""},
		{"inside not, beside another", `{"match":[{"host":["b.test"],"not":[{"host":["a.test"]}]}]}`, "b.test"},
		{"path, method, query and protocol keep nobody out", `{"match":[{"host":["a.test"],"path":["/x"],"method":["GET"],"query":{"q":["1"]},"protocol":"https"}]}`, "a.test"},
		{"not by path keeps nobody out", `{"match":[{"host":["a.test"],"not":[{"path":["/x"]}]}]}`, "a.test"},
		{"beside remote_ip", `{"match":[{"host":["a.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}]}`, ""},
		{"beside client_ip", `{"match":[{"host":["a.test"],"client_ip":{"ranges":["10.0.0.0/8"]}}]}`, ""},
		{"beside not remote_ip", `{"match":[{"host":["a.test"],"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]}]}`, ""},
		{"beside not not remote_ip", `{"match":[{"host":["a.test"],"not":[{"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]}]}]}`, ""},
		{"beside header", `{"match":[{"host":["a.test"],"header":{"X-Staff":["1"]}}]}`, ""},
		{"beside header_regexp", `{"match":[{"host":["a.test"],"header_regexp":{"X-Staff":{"pattern":"1"}}}]}`, ""},
		{"beside vars", `{"match":[{"host":["a.test"],"vars":{"{http.request.cookie.a}":["1"]}}]}`, ""},
		{"beside vars_regexp", `{"match":[{"host":["a.test"],"vars_regexp":{"a":{"pattern":"1"}}}]}`, ""},
		{"beside expression", `{"match":[{"host":["a.test"],"expression":"{http.request.uri.path} == '/'"}]}`, ""},
		{"below remote_ip", nested(`{"host":["*.open.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}`, `{"host":["x.open.test"]}`), ""},
		{"below one of two that is remote_ip", nested(any+`,{"remote_ip":{"ranges":["10.0.0.0/8"]}}`, `{"host":["x.open.test"]}`), ""},
		{"around remote_ip", nested(`{"host":["a.test"]}`, `{"remote_ip":{"ranges":["10.0.0.0/8"]}}`), "a.test"},
		{"once beside remote_ip, once open", `{"match":[{"host":["a.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}]},` + hostRoute("a.test"), "a.test"},
		{"one set of two", `{"match":[{"host":["a.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},{"host":["b.test"]}]}`, "b.test"},
		{"without TLS only", `{"match":[{"host":["a.test"],"protocol":"http"}]}`, ""},
		{"a named route", `{"match":[` + any + `],"handle":[{"handler":"invoke","name":"n"}]}`, "x.open.test"},
		{"a named route of other hosts", `{"match":[{"host":["*.a.test"]}],"handle":[{"handler":"invoke","name":"n"}]}`, ""},
		{"a named route of other hosts, and below remote_ip", `{"match":[{"host":["*.a.test"]}],"handle":[{"handler":"invoke","name":"n"}]},{"match":[{"host":["x.open.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}],"handle":[{"handler":"invoke","name":"n"}]}`, ""},
		{"a named route in a named route", `{"match":[` + any + `],"handle":[{"handler":"invoke","name":"m"}]}`, "x.open.test"},
		{"a named route below remote_ip", `{"match":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}],"handle":[{"handler":"invoke","name":"n"}]}`, ""},
		{"a named route that nobody invokes", hostRoute("a.test"), "a.test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,
				"named_routes":{"n":{"handle":[{"handler":"subroute","routes":[`+hostRoute("x.open.test")+`]},{"handler":"invoke","name":"n"}]},"m":{"handle":[{"handler":"invoke","name":"n"}]}},
				"routes":[`+test.routes+`]}}}}`, ""))
			if got := strings.Join(slices.Sorted(maps.Keys(openNames(srv))), " "); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
