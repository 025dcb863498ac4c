package origin_test

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddy-connreuse/connreuse/caddyfile" // directives
	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/origin"
)

// TestDocs: the JSON in docs/origin.md is what the Caddyfile in front of it comes
// to, and no metric, log reason or option is missing. That its Caddyfiles load is
// tested with those of all pages, in package caddyfile.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/origin.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```").FindAllSubmatch(text, -1)
	last := found[len(found)-1][1]
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(last, nil)
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

	match := regexp.MustCompile("(?ms)^```json\n(.*?)^```").FindSubmatch(text)
	var shown any
	if err := json.Unmarshal(match[1], &shown); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shown, wrappers) {
		t.Errorf("the JSON is\n%v, and the Caddyfile comes to\n%v", shown, wrappers)
	}

	want := []string{origin.OverLimit, origin.NoPort}
	for reason := authority.NotServed; reason <= authority.Withheld; reason++ {
		want = append(want, reason.String())
	}
	for _, name := range []string{"frames", "advertised_origins", "frame_bytes", "cut_sets"} {
		want = append(want, "caddy_origin_"+name+"_total")
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[origin.ListenerWrapper]()) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			want = append(want, name)
		}
	}
	for _, words := range want {
		if !bytes.Contains(text, []byte("`"+words)) {
			t.Errorf("%q is not in the docs", words)
		}
	}
}
