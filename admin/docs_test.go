package admin

import (
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/test/docs"
)

// TestDocs: docs/admin.md names every endpoint, parameter and field.
func TestDocs(t *testing.T) {
	page := docs.Page(t, "../docs/admin.md")
	for _, e := range endpoints {
		line := e.method + " " + base + e.path
		if len(e.params) > 0 {
			line += "?" + strings.Join(e.params, "=&") + "="
		}
		if !strings.Contains(page, "`"+line+"`") {
			t.Errorf("docs/admin.md lacks `%s`", line)
		}
	}
	for _, answer := range []any{Upstreams{}, Drained{}, Origins{}, Misdirected{}, History{}, Sites{}, authority.Explanation{}} {
		for _, field := range fields(reflect.TypeOf(answer)) {
			if field != "pools" && !strings.Contains(page, "`"+field+"`") {
				t.Errorf("docs/admin.md lacks the field `%s`", field)
			}
		}
	}
}

// fields returns the names of all JSON fields in a type.
func fields(t reflect.Type) (names []string) {
	switch t.Kind() {
	case reflect.Slice, reflect.Pointer:
		return fields(t.Elem())
	case reflect.Struct:
		for field := range t.Fields() {
			tag, ok := field.Tag.Lookup("json")
			if !ok {
				continue
			}
			name, _, _ := strings.Cut(tag, ",")
			names = append(append(names, name), fields(field.Type)...)
		}
	}
	return names
}
