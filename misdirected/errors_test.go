package misdirected

import (
	"net/http/httptest"
	"strings"
	"testing"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// Caddy refuses a method longer than 32 characters before any handler runs, and asks
// the error routes. A gate in front of these judges such a request.
func TestGateInErrorRoutes(t *testing.T) {
	const server = `{"http":{"servers":{"srv0":{` + testcaddy.NoRedirects + `,"strict_sni_host":false,
		"tls_connection_policies":[{}],
		"routes":[{"handle":[{"handler":"misdirected"},{"handler":"error","status_code":404}]}],
		"errors":{"routes":[{"handle":[GATE{"handler":"static_response","status_code":299,"body":"error routes"}]}]}
	}}}}`
	for _, test := range []struct {
		name, gate, method, sni string
		status                  int
	}{
		{"an error of a request that passed", `{"handler":"misdirected"},`, "GET", "a.test", 299},
		{"a request that the gate refused", `{"handler":"misdirected"},`, "GET", "b.test", 421},
		{"no gate in error routes", "", strings.Repeat("X", 33), "b.test", 299},
		{"a request that no other gate has seen", `{"handler":"misdirected"},`, strings.Repeat("X", 33), "b.test", 421},
		{"its own connection", `{"handler":"misdirected"},`, strings.Repeat("X", 33), "a.test", 299},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, strings.Replace(server, "GATE", test.gate, 1), ""))
			r := httptest.NewRequest(test.method, "/", nil)
			r.Host, r.TLS = "a.test", testcaddy.Connection(srv, test.sni)
			w := httptest.NewRecorder()
			srv.ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("status %d, want %d", w.Code, test.status)
			}
		})
	}
}

// Explain says what error routes do with a refusal.
func TestExplainTellsOfErrorRoutes(t *testing.T) {
	const server = `{"http":{"servers":{"srv0":{` + testcaddy.NoRedirects + `,"strict_sni_host":STRICT,
		"tls_connection_policies":[{}],
		"routes":[{"handle":[GATE]}]ERRORS}}}}`
	const handed = `{"handler":"misdirected","error_routes":true}`
	errorRoutes := func(handlers string) string { return `,"errors":{"routes":[{"handle":[` + handlers + `]}]}` }
	for _, test := range []struct {
		name, strict, gate, errors, host, want string
	}{
		{"a request that passes", "false", handed, "", "a.test", ""},
		{"refused at once", "false", `{"handler":"misdirected"}`, errorRoutes(`{"handler":"static_response","status_code":200}`), "b.test", "are not asked: misdirected answers at once"},
		{"no error routes", "false", handed, "", "b.test", "there are none: the client gets the refusal"},
		{"a text of their own", "false", handed, errorRoutes(`{"handler":"static_response","body":"no"}`), "b.test", "keep the status of the refusal"},
		{"an error page service", "false", handed, errorRoutes(`{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:9"}]}`), "b.test", "may give the refusal another status"},
		{"Caddy's own check", "true", `{"handler":"misdirected"}`, errorRoutes(`{"handler":"static_response","status_code":200}`), "b.test", "may give the refusal another status"},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := strings.NewReplacer("STRICT", test.strict, "GATE", test.gate, "ERRORS", test.errors).Replace(server)
			srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, config, ""))
			explained := srv.Routes[0].Handlers[0].(*Handler).server.Explain("a.test", test.host)
			if explained.ErrorRoutes != test.want {
				t.Errorf("%q, want %q", explained.ErrorRoutes, test.want)
			}
		})
	}
}
