package upstreampool

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// Every Caddyfile of the documentation is formatted, adapts and is valid, and
// the JSON beside the last one is what it adapts to.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/upstreampool.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := func(lang string) (found []string) {
		for _, m := range regexp.MustCompile("(?s)```"+lang+"\n(.*?)```").FindAllSubmatch(page, -1) {
			found = append(found, string(m[1]))
		}
		return found
	}
	adapter := caddyconfig.GetAdapter("caddyfile")
	var last string
	for _, block := range blocks("caddyfile") {
		if formatted := caddyfile.Format([]byte(block)); string(bytes.TrimSpace(formatted)) != strings.TrimSpace(block) {
			t.Errorf("not formatted:\n%s", block)
		}
		adapted, warnings, err := adapter.Adapt([]byte(block), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			t.Errorf("adapting: %v\n%s", err, block)
			continue
		}
		for _, w := range warnings {
			t.Errorf("warning: %v\n%s", w, block)
		}
		var cfg caddy.Config
		if err := json.Unmarshal(adapted, &cfg); err != nil {
			t.Fatal(err)
		}
		cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "PANIC"}}}}
		if err := caddy.Validate(&cfg); err != nil {
			t.Errorf("validating: %v\n%s", err, block)
		}
		last = string(adapted)
	}
	var want, got any
	if err := json.Unmarshal([]byte(blocks("json")[0]), &want); err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(last, `"transport":`)
	if !ok {
		t.Fatal("no transport in", last)
	}
	if err := json.NewDecoder(strings.NewReader(after)).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the JSON of the page is\n%v\nbut the Caddyfile adapts to\n%v", want, got)
	}
}
