package docs

import (
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/caddy-connreuse/connreuse"

// floors are the packages that the map tells of, from the top.
var floors = []string{
	".",
	"command admin caddyfile",
	"misdirected origin upstreampool",
	"internal/authority internal/connpool",
	"internal/memory",
	"internal/wire internal/streams internal/remember",
	"internal/idletime internal/replay internal/socket internal/resolve",
	"internal/hostname internal/linked internal/demand internal/owner internal/matcher internal/neterr internal/stack internal/metrics",
}

// Imports lead down, from floor to floor. So each package can be read with those below it.
func TestImportsLeadDown(t *testing.T) {
	floorOf := make(map[string]int)
	for i, floor := range floors {
		for name := range strings.FieldsSeq(floor) {
			floorOf[name] = i
		}
	}
	tree := readTree(t)
	seen := make(map[string]bool)
	for _, file := range tree.files {
		from := path.Dir(file)
		if path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") || outside(from) {
			continue
		}
		floor, known := floorOf[from]
		if !known {
			t.Errorf("%s is on no floor", from)
			continue
		}
		seen[from] = true
		for _, to := range imports(t, file) {
			if below, known := floorOf[to]; !known || below <= floor {
				t.Errorf("%s imports %s, which is not below it", file, to)
			}
		}
	}
	for name := range floorOf {
		if !seen[name] {
			t.Errorf("there is no package %s", name)
		}
	}
}

// outside tells whether a folder is no part of what users get, or of another module.
func outside(folder string) bool {
	for _, name := range []string{"internal/test", "integration", "example", "bench", "tools"} {
		if folder == name || strings.HasPrefix(folder, name+"/") {
			return true
		}
	}
	return false
}

// imports returns the packages of this module that a file imports.
func imports(t *testing.T, file string) (all []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if ours, ok := strings.CutPrefix(name, module+"/"); ok {
			all = append(all, ours)
		}
	}
	return all
}
