// Package conformance holds docs/conformance.md against the tests of the module.
package conformance

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tests that were found into docs/conformance.md")

const (
	root = "../../.."
	page = root + "/docs/conformance.md"

	// open stands in the page where a requirement is not met yet.
	open = "**open**"
)

var (
	ids       = regexp.MustCompile(`\b[MOP][0-9]+\b`)
	checklist = regexp.MustCompile(`(?s)Checklist:\s*([MOP0-9,\s]*[0-9])\.`)
	codedName = regexp.MustCompile(`^(Test|Fuzz)[MOP][0-9]`)
)

// TestChecklist fails when a requirement has no test, when a test names one that
// is unknown, and when the page names other tests than there are.
func TestChecklist(t *testing.T) {
	found := testsByID(t)
	before, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	lines := strings.Split(string(before), "\n")
	for i, line := range lines {
		cells := strings.Split(line, " | ")
		id := strings.TrimPrefix(cells[0], "| ")
		if !strings.HasPrefix(line, "| ") || ids.FindString(id) != id {
			continue
		}
		if known[id] {
			t.Errorf("%s stands twice in the page", id)
		}
		known[id] = true
		tests := strings.Join(found[id], "<br>")
		if tests == "" {
			if tests = open; !strings.HasSuffix(line, "| "+open+" |") {
				t.Errorf("%s has no test: add a comment 'Checklist: %s.' to the test that shows it", id, id)
			}
		}
		lines[i] = strings.Join(append(cells[:3:3], tests), " | ") + " |"
	}
	for id, tests := range found {
		if !known[id] {
			t.Errorf("%s is not in the page, but named by %v", id, tests)
		}
	}
	after := strings.Join(lines, "\n")
	switch {
	case after == string(before):
	case *update:
		if err := os.WriteFile(page, []byte(after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("docs/conformance.md is out of date: run go test ./internal/test/conformance -update")
	}
}

// testsByID returns the tests that name each id, as folder and function.
func testsByID(t *testing.T) map[string][]string {
	found := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root:
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				if codedName.MatchString(f.Name.Name) {
					t.Errorf("%s: %s is named for an id: name it for what it shows, and put the id into its comment", path, f.Name.Name)
				}
				for _, id := range named(file, f) {
					found[id] = append(found[id], fmt.Sprintf("`%s` %s", filepath.ToSlash(folder), f.Name.Name))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tests := range found {
		slices.Sort(tests)
	}
	return found
}

// named returns the ids that the comments of a function name, those inside it too.
func named(file *ast.File, f *ast.FuncDecl) (list []string) {
	start := f.Pos()
	if f.Doc != nil {
		start = f.Doc.Pos()
	}
	for _, group := range file.Comments {
		if group.Pos() < start || group.End() > f.End() {
			continue
		}
		for _, match := range checklist.FindAllStringSubmatch(group.Text(), -1) {
			list = append(list, ids.FindAllString(match[1], -1)...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
