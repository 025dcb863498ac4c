package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBook(t *testing.T) {
	root := t.TempDir()
	readme := filepath.Join(root, "README.md")
	if err := os.WriteFile(readme, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	book := Book{Root: root, Names: []string{"first", "second", "never"}, Headlines: []string{"second/b", "never/d", "first/a"}}
	second := &Result{Name: "second", Title: "Two", Plots: []Plot{
		{Name: "lines", Series: []Series{{"line", [][2]float64{{1, 2}, {2, 3}}}}},
		{Name: "bars", Bars: true, Labels: []string{"x", "y"}, Series: []Series{{"bar", [][2]float64{{0, 2}, {1, 3}}}}},
	}}
	second.AtLeast("second/b", "b is large", 2, 3)
	second.AtMost("second/c", "c is small", 2, 3)
	first := &Result{Name: "first", Title: "One"}
	first.None("first/a", "failures", 0, 100).With("another", 7).With("a third", 0.25)
	for _, r := range []*Result{second, first} {
		if err := book.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"before\n", "| b is large | 2 | at least 3 | **NO** |  | `go -C bench run . second` |\n",
		"| `never/d` | not measured |  | **NO** |  | `go -C bench run . never` |\n", "| failures | 0 of 100 | 0 | yes | another: 7, a third: 0.250 | `go -C bench run . first` |\n",
		"Of 3 claims of all sections, these do not hold: `second/b` (2, not at least 3).\n\n",
		"Not measured in full: never.\n", tableEnds + "after\n",
	} {
		_, rest, ok := strings.Cut(string(text), want)
		if !ok {
			t.Fatalf("part %d of the README is not there in order: %q in\n%s", i, want, text)
		}
		text = []byte(rest)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "results.md"))
	if err != nil {
		t.Fatal(err)
	}
	if one, two := strings.Index(string(page), "## One"), strings.Index(string(page), "## Two"); one < 0 || two < one {
		t.Errorf("the sections are not in order:\n%s", page)
	}
	for _, plot := range []string{"lines", "bars"} {
		svg, err := os.ReadFile(filepath.Join(root, "docs", "results", plot+".svg"))
		if err != nil || !strings.Contains(string(svg), "</svg>") {
			t.Errorf("%s.svg: %v", plot, err)
		}
	}
	if broken := second.Broken(); len(broken) != 1 || broken[0].Name != "second/b" {
		t.Errorf("broken claims: %v", broken)
	}
}
