package sidebyside

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// Sites are what a Caddyfile makes of them.
func TestSite(t *testing.T) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`
a.bench.test, b.bench.test {
	respond /found found
	header X-Site 1
	respond ok
}
https:// {
	respond 404
}
`), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct{ Routes any }
			}
		}
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	respond := func(key string, value any) any { return map[string]any{"handler": "static_response", key: value} }
	header := map[string]any{"handler": "headers", "response": map[string]any{"set": map[string]any{"X-Site": []string{"1"}}}}
	found := map[string]any{"match": []any{map[string]any{"path": []string{"/found"}}}, "handle": []any{respond("body", "found")}}
	want, err := json.Marshal([]any{
		Site(append(Routes(header), append([]any{found}, Routes(respond("body", "ok"))...)...), "a.bench.test", "b.bench.test"),
		Site(Routes(respond("status_code", 404))),
	})
	if err != nil {
		t.Fatal(err)
	}
	var wanted any
	if err := json.Unmarshal(want, &wanted); err != nil {
		t.Fatal(err)
	}
	if got := config.Apps.HTTP.Servers["srv0"].Routes; !reflect.DeepEqual(got, wanted) {
		text, _ := json.Marshal(got)
		t.Errorf("routes: %s, want %s", text, want)
	}
}
