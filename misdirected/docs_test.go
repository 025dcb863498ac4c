package misdirected

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/docs"
)

// TestDocs: the page's table of steps is that of the decision, and the page and the
// directive have the same options.
func TestDocs(t *testing.T) {
	page := docs.Page(t, "../docs/misdirected.md")
	var rows []string
	for i, step := range steps {
		var found []string
		for _, reason := range step.finds {
			answer := "passes"
			if status := reason.Status(); status != 0 {
				answer = fmt.Sprint(status)
			}
			found = append(found, fmt.Sprintf("`%s` %s", reason, answer))
		}
		rows = append(rows, fmt.Sprintf("| %d | %s | %s |", i+1, strings.ReplaceAll(step.rule, "scope says", "`scope` says"), strings.Join(found, ", ")))
	}
	if table := strings.Join(rows, "\n"); !strings.Contains(page, table) {
		t.Errorf("the page has not this table of steps:\n%s", table)
	}

	syntax, described := docs.Options(page, "misdirected [<matcher>] {", "| option | default | effect |")
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
	}
	if !slices.Equal(syntax, names) || !slices.Equal(described, names) {
		t.Errorf("options are %v; the syntax has %v, the table %v", names, syntax, described)
	}
}
