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
