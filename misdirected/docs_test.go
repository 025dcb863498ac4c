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

	var syntax, described []string
	_, block, _ := strings.Cut(page, "misdirected [<matcher>] {\n")
	block, _, _ = strings.Cut(block, "\n}")
	for line := range strings.Lines(block) {
		syntax = append(syntax, strings.Fields(line)[0])
	}
	_, table, _ := strings.Cut(page, "| option | default | effect |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		described = append(described, strings.Trim(strings.Fields(line)[1], "`"))
	}
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
	}
	if !slices.Equal(syntax, names) || !slices.Equal(described, names) {
		t.Errorf("options are %v; the syntax has %v, the table %v", names, syntax, described)
	}
}
