package docs

import (
	"slices"
	"testing"
)

func TestBlocks(t *testing.T) {
	const page = "# Title\n```caddyfile\na.test {\n}\n```\nText with ```json\nin it\n\n```json\n{}\n```\n```\nplain\n```\n```caddyfile\nb.test\n```\n"
	for language, want := range map[string][]string{
		"caddyfile": {"a.test {\n}\n", "b.test\n"},
		"json":      {"{}\n"},
		"":          {"plain\n"},
		"sh":        nil,
	} {
		if got := Blocks(page, language); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", language, got, want)
		}
	}
}
