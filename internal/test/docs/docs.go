// Package docs reads the pages of the documentation for tests.
package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Page reads a Markdown file.
func Page(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var fenced = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// Blocks returns the code blocks of a page in a language, as it stands behind the
// three backquotes. They end with a newline.
func Blocks(page, language string) (blocks []string) {
	for _, match := range fenced.FindAllStringSubmatch(page, -1) {
		if match[1] == language {
			blocks = append(blocks, match[2])
		}
	}
	return blocks
}

// Options returns the names of the options in the syntax of a directive on a page, from
// a line that begins its block on, and in the table with these column titles. The
// syntax ends with an empty line or the block.
func Options(page, begins, titles string) (syntax, described []string) {
	_, block, _ := strings.Cut(page, begins+"\n")
	for line := range strings.Lines(block) {
		if line == "\n" || line == "}\n" {
			break
		}
		syntax = append(syntax, strings.Fields(line)[0])
	}
	_, table, _ := strings.Cut(page, titles+"\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		described = append(described, strings.Trim(strings.Fields(line)[1], "`"))
	}
	return syntax, described
}
