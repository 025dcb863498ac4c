// Package docs reads the pages of the documentation for tests.
package docs

import (
	"os"
	"regexp"
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
