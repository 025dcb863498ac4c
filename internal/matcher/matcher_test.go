package matcher

import (
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestHosts(t *testing.T) {
	protocol := caddyhttp.MatchProtocol("https")
	sets := caddyhttp.MatcherSets{
		{&caddyhttp.MatchHost{"A.test", "b.test"}, &protocol}, // of a config
		{protocol, caddyhttp.MatchHost{"c.test"}},             // of automatic HTTPS
		{},
	}
	if got, want := Hosts(sets), []string{"A.test", "b.test", "c.test"}; !slices.Equal(got, want) {
		t.Errorf("Hosts = %v, want %v", got, want)
	}
	for _, m := range []any{protocol, &protocol} {
		if got, ok := As[caddyhttp.MatchProtocol](m); !ok || got != protocol {
			t.Errorf("%T: %v, %v", m, got, ok)
		}
		if _, ok := As[caddyhttp.MatchHost](m); ok {
			t.Errorf("%T is taken for hosts", m)
		}
	}
}
