package upstreampool

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-connreuse/connreuse/internal/test/docs"
)

// The page and the transport have the same options.
func TestOptionsOfDocs(t *testing.T) {
	page := docs.Page(t, "../docs/upstreampool.md")
	var names []string
	for _, o := range options {
		names = append(names, o.name)
	}
	syntax, described := docs.Options(page, "transport upstreampool {", "| option | effect | default |")
	if !slices.Equal(syntax, names) || !slices.Equal(described, names) {
		t.Errorf("options are %v; the syntax has %v, the table %v", names, syntax, described)
	}
}

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
