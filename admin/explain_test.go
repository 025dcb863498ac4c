package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// TestExplainFindsTheServer: a question without server means the one server with
// TLS; among several with TLS, the one with a guard.
func TestExplainFindsTheServer(t *testing.T) {
	const (
		plain  = `"automatic_https": {"disable": true}, "routes": [{"match": [{"host": ["a.which.test"]}], "handle": [{"handler": "misdirected"}]}]`
		tls    = `"tls_connection_policies": [{}], "automatic_https": {"disable": true}, "routes": [{"match": [{"host": ["a.which.test"]}], "handle": [{"handler": "misdirected"}]}]`
		origin = `"tls_connection_policies": [{}], "automatic_https": {"disable": true}, "listener_wrappers": [{"wrapper": "origin"}]`
	)
	for _, test := range []struct {
		name    string
		servers map[string]string
		query   string
		server  string // empty: none is found
		problem string
	}{
		{"the only one", map[string]string{"one": tls}, "", "one", ""},
		{"plain HTTP beside it", map[string]string{"one": tls, "two": plain, "three": plain}, "", "one", ""},
		{"no guard on the other", map[string]string{"one": tls, "two": origin}, "", "one", ""},
		{"none has TLS", map[string]string{"one": plain}, "", "one", ""},
		{"two have both", map[string]string{"one": tls, "two": tls, "three": plain}, "", "", "server is missing, must be one of: one, two"},
		{"named, without TLS", map[string]string{"one": tls, "two": plain}, "&server=two", "two", ""},
		{"named, none", map[string]string{"one": tls, "two": plain}, "&server=three", "", "must be one of: one, two"},
	} {
		t.Run(test.name, func(t *testing.T) {
			servers := make(map[string]json.RawMessage)
			for name, settings := range test.servers {
				servers[name] = json.RawMessage(fmt.Sprintf(`{"listen": ["127.0.0.1:%d"], %s}`, testcaddy.FreePort(t), settings))
			}
			apps, err := json.Marshal(map[string]any{"http": map[string]any{"servers": servers}})
			if err != nil {
				t.Fatal(err)
			}
			if err := caddy.Run(testcaddy.Config(t, string(apps), "")); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := caddy.Stop(); err != nil {
					t.Error(err)
				}
			}()
			w := httptest.NewRecorder()
			err = endpointAt(t, "explain").ServeHTTP(w, httptest.NewRequest(http.MethodGet, base+"explain?host=a.which.test"+test.query, nil))
			var e authority.Explanation
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Errorf("%v, want %q", err, test.problem)
				}
			} else if err != nil || json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Server != test.server {
				t.Errorf("%v, %s: want server %s", err, w.Body, test.server)
			}
		})
	}
}
