package authority

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// What hostname takes for the host of a site, Caddy's own matcher does. The test is here
// because Caddy is linked here anyway.
func TestRouted(t *testing.T) {
	for _, test := range []struct{ host, want string }{
		{"a.test", "a.test"},
		{"A.Test:8443", "a.test"},
		{"a.test.", "a.test."},
		{"[::1]", "::1"},
		{"[::1]:443", "::1"},
		{"[0::1]", "0::1"},
		{"::1", "::1"},
		{"", ""},
	} {
		got := hostname.Routed(test.host)
		if got != test.want {
			t.Errorf("Routed(%q) = %q, want %q", test.host, got, test.want)
		}
		match, err := caddyhttp.MatchHost{got}.MatchWithError(requestTo(test.host))
		if err != nil || !match {
			t.Errorf("Caddy does not route %q to the site %q: %v", test.host, got, err)
		}
	}
}

// requestTo makes a request as Caddy has it when it looks for its site.
func requestTo(host string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = host
	return r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
}
