package origin_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddy-connreuse/connreuse/caddyfile" // directives
	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/test/docs"
	"github.com/caddy-connreuse/connreuse/origin"
)

// TestDocs: the JSON in docs/origin.md is what the Caddyfile in front of it comes
// to, and no log reason or option is missing. That its Caddyfiles load is
// tested with those of all pages, in package caddyfile.
func TestDocs(t *testing.T) {
	page := docs.Page(t, "../docs/origin.md")
	caddyfiles := docs.Blocks(page, "caddyfile")
	last := caddyfiles[len(caddyfiles)-1]
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(last), nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, last)
	}
	var config struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Wrappers any `json:"listener_wrappers"`
				}
			}
		}
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	wrappers := config.Apps.HTTP.Servers["srv0"].Wrappers

	var shown any
	if err := json.Unmarshal([]byte(docs.Blocks(page, "json")[0]), &shown); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shown, wrappers) {
		t.Errorf("the JSON is\n%v, and the Caddyfile comes to\n%v", shown, wrappers)
	}

	want := []string{origin.OverLimit, origin.NoPort}
	for reason := authority.NotServed; reason <= authority.Withheld; reason++ {
		want = append(want, reason.String())
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[origin.ListenerWrapper]()) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			want = append(want, name)
		}
	}
	for _, words := range want {
		if !strings.Contains(page, "`"+words) {
			t.Errorf("%q is not in the docs", words)
		}
	}
}
