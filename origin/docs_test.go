package origin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddy-connreuse/connreuse/caddyfile" // directives
	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/origin"
)

// TestDocs: what docs/origin.md shows loads, the JSON is what the Caddyfile in
// front of it comes to, and no metric, log reason or option is missing.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/origin.md")
	if err != nil {
		t.Fatal(err)
	}
	var wrappers any
	found := regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```").FindAllSubmatch(text, -1)
	for _, match := range found {
		if formatted := caddyfile.Format(match[1]); !bytes.Equal(formatted, match[1]) {
			t.Errorf("not as `caddy fmt` has it:\n%s", match[1])
		}
		adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(match[1], nil)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%v, %v in\n%s", err, warnings, match[1])
		}
		var cfg caddy.Config
		var raw struct {
			Apps struct {
				HTTP struct {
					Servers map[string]struct {
						Wrappers any `json:"listener_wrappers"`
					}
				}
			}
		}
		if err := json.Unmarshal(adapted, &cfg); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(adapted, &raw); err != nil {
			t.Fatal(err)
		}
		cfg.Admin = &caddy.AdminConfig{Disabled: true}
		cfg.StorageRaw = json.RawMessage(fmt.Sprintf(`{"module":"file_system","root":%q}`, t.TempDir()))
		if _, err := caddy.ProvisionContext(&cfg); err != nil {
			t.Fatalf("%v in\n%s", err, match[1])
		}
		wrappers = raw.Apps.HTTP.Servers["srv0"].Wrappers
	}
	if len(found) != 3 {
		t.Errorf("%d Caddyfiles, want 3", len(found))
	}

	match := regexp.MustCompile("(?ms)^```json\n(.*?)^```").FindSubmatch(text)
	var shown any
	if err := json.Unmarshal(match[1], &shown); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(shown, wrappers) {
		t.Errorf("the JSON is\n%v, and the Caddyfile comes to\n%v", shown, wrappers)
	}

	want := []string{origin.OverLimit, origin.NoPort}
	for reason := authority.NotServed; reason <= authority.Refused; reason++ {
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
