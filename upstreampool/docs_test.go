package upstreampool

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-connreuse/connreuse/internal/test/docs"
)

// The JSON of the documentation is what its last Caddyfile adapts to. That its
// Caddyfiles load is tested with those of all pages, in package caddyfile.
func TestDocs(t *testing.T) {
	page := docs.Page(t, "../docs/upstreampool.md")
	caddyfiles := docs.Blocks(page, "caddyfile")
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfiles[len(caddyfiles)-1]), nil)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := json.Unmarshal([]byte(docs.Blocks(page, "json")[0]), &want); err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(adapted), `"transport":`)
	if !ok {
		t.Fatalf("no transport in %s", adapted)
	}
	if err := json.NewDecoder(strings.NewReader(after)).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the JSON of the page is\n%v\nbut the Caddyfile adapts to\n%v", want, got)
	}
}
