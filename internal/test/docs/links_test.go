package docs

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../../.."

// Each link of a page to a file of this repository, and to a heading in one, leads
// somewhere, and so does each page that a comment or a message names.
func TestLinks(t *testing.T) {
	tree := readTree(t)
	found := 0
	for _, file := range tree.files {
		if strings.HasSuffix(file, ".md") {
			links := linksOf(tree.text(t, file))
			found += len(links)
			for _, link := range links {
				if err := tree.check(t, file, link); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
		if slices.Contains([]string{".md", ".go", ".html", ".yml"}, path.Ext(file)) {
			for _, page := range namedPage.FindAllString(tree.text(t, file), -1) {
				if err := tree.check(t, "README.md", page); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d links found", found)
	}
}

// The pages for whoever changes something name Go files that there are. Without a
// folder, there is one of that name somewhere.
func TestMapNamesFiles(t *testing.T) {
	tree := readTree(t)
	for _, page := range []string{"docs/architecture.md", "CONTRIBUTING.md"} {
		for _, name := range namedSource.FindAllString(tree.text(t, page), -1) {
			if !slices.ContainsFunc(tree.files, func(file string) bool {
				return file == name || !strings.Contains(name, "/") && path.Base(file) == name
			}) {
				t.Errorf("%s names %s, which is not there", page, name)
			}
		}
	}
	folder := regexp.MustCompile("`([a-z0-9][a-z0-9/]*)/`")
	for _, name := range folder.FindAllStringSubmatch(tree.text(t, "docs/architecture.md"), -1) {
		if !slices.ContainsFunc(tree.files, func(file string) bool { return strings.HasPrefix(file, name[1]+"/") }) {
			t.Errorf("docs/architecture.md names the folder %s, which is not there", name[1])
		}
	}
}

// What the map says to stand in a file is declared there.
func TestMapNamesCode(t *testing.T) {
	tree := readTree(t)
	page := tree.text(t, "docs/architecture.md")
	found := 0
	for _, m := range slices.Concat(codeIn.FindAllStringSubmatch(page, -1), codeOf.FindAllStringSubmatch(page, -1)) {
		for _, name := range code.FindAllString(m[1], -1) {
			name = strings.Trim(name, "`")
			found++
			declared := regexp.MustCompile(`(?m)(^func (\([^)]*\) )?|^(type|var|const) |^\t)` + name[strings.LastIndex(name, ".")+1:] + `\b`)
			if !slices.ContainsFunc(tree.files, func(file string) bool {
				return (file == m[2] || !strings.Contains(m[2], "/") && path.Base(file) == m[2]) && declared.MatchString(tree.text(t, file))
			}) {
				t.Errorf("docs/architecture.md has %s in %s, which does not declare it", name, m[2])
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d names found", found)
	}
}

// A package that is not small has a map of its own, in its doc: it names every file.
func TestPackagesNameTheirFiles(t *testing.T) {
	tree := readTree(t)
	for _, folder := range []string{"command", "misdirected", "origin", "upstreampool", "internal/authority", "internal/connpool", "internal/idletime", "internal/replay"} {
		var files []string
		doc := ""
		for _, file := range tree.files {
			if path.Dir(file) != folder || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
				continue
			}
			text := tree.text(t, file)
			if strings.HasPrefix(text, "// Package ") {
				doc, _, _ = strings.Cut(text, "\npackage ")
			} else {
				files = append(files, path.Base(file))
			}
		}
		for _, file := range files {
			if !slices.Contains(namedSource.FindAllString(doc, -1), file) {
				t.Errorf("the doc of package %s does not name %s", folder, file)
			}
		}
		if len(files) < 3 {
			t.Errorf("only %d files of package %s found", len(files), folder)
		}
	}
}

var (
	codeIn = regexp.MustCompile("((?:`[\\w.]+`(?:, | and ))*`[\\w.]+`) in `([\\w/]+\\.go)`")
	codeOf = regexp.MustCompile("(`[\\w.]+`) \\(`?([\\w/]+\\.go)`?\\)")

	inline      = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)`)
	reference   = regexp.MustCompile(`(?m)^\[[^\]]+\]:\s*<?([^\s>]+)`)
	attribute   = regexp.MustCompile(`(?:href|src)="([^"]+)"`)
	code        = regexp.MustCompile("`[^`\n]*`")
	heading     = regexp.MustCompile(`(?m)^#+ +(.*?)[ #]*$`)
	linkText    = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	noAnchor    = regexp.MustCompile(`[^\p{L}\p{N}\p{Pc} -]`)
	anyFence    = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	namedPage   = regexp.MustCompile(`\b(?:docs|example)/[a-z0-9./-]+\.md(?:#[a-z0-9_-]+)?`)
	namedSource = regexp.MustCompile(`[\w/]+\.go\b`)
)

// linksOf returns where the links of a page lead that name no other server.
func linksOf(page string) (links []string) {
	page = code.ReplaceAllString(anyFence.ReplaceAllString(page, ""), "")
	for _, form := range []*regexp.Regexp{inline, reference, attribute} {
		for _, match := range form.FindAllStringSubmatch(page, -1) {
			if link, err := url.Parse(match[1]); err != nil || link.Scheme == "" && link.Host == "" {
				links = append(links, match[1])
			}
		}
	}
	return links
}

// anchorsOf returns the anchors that a page's headings have on GitHub: in lower case,
// without punctuation, with hyphens for spaces, and numbered from the second on.
func anchorsOf(page string) (anchors []string) {
	times := make(map[string]int)
	for _, match := range heading.FindAllStringSubmatch(anyFence.ReplaceAllString(page, ""), -1) {
		text := linkText.ReplaceAllString(match[1], "$1")
		anchor := strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(text), ""), " ", "-")
		if n := times[anchor]; n > 0 {
			anchors = append(anchors, fmt.Sprintf("%s-%d", anchor, n))
		} else {
			anchors = append(anchors, anchor)
		}
		times[anchor]++
	}
	return anchors
}

// A tree is the files of the repository.
type tree struct{ files []string }

func readTree(t *testing.T) (found tree) {
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "testdata"):
			return filepath.SkipDir
		case !entry.IsDir():
			rel, err := filepath.Rel(root, name)
			found.files = append(found.files, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (tree) text(t *testing.T, file string) string { return Page(t, filepath.Join(root, file)) }

// check returns why a link in a file leads nowhere, or nil.
func (tr tree) check(t *testing.T, from, link string) error {
	to, err := url.Parse(link)
	if err != nil {
		return err
	}
	file := path.Join(path.Dir(from), to.Path)
	if to.Path == "" {
		file = from
	}
	if _, err := os.Stat(filepath.Join(root, file)); err != nil {
		return fmt.Errorf("link to %s: no such file", link)
	}
	if to.Fragment == "" {
		return nil
	}
	if anchors := anchorsOf(tr.text(t, file)); !slices.Contains(anchors, to.Fragment) {
		return fmt.Errorf("link to %s: no such heading, there are %q", link, anchors)
	}
	return nil
}

func TestLinksAndAnchorsOfAPage(t *testing.T) {
	const page = "# The `first`, [one](x.md)!\n## HTTP/3 & a_b\n```md\n# none [no](no.md)\n```\n## HTTP/3 & a_b\n" +
		"See [a](a.md#x), ![b](<b.svg>), [c](https://c.test), `[no](no.md)`, [d] and <img src=\"e.png\">.\n\n[d]: d/d.md\n"
	if got, want := linksOf(page), []string{"x.md", "a.md#x", "b.svg", "d/d.md", "e.png"}; !slices.Equal(got, want) {
		t.Errorf("links %q, want %q", got, want)
	}
	if got, want := anchorsOf(page), []string{"the-first-one", "http3--a_b", "http3--a_b-1"}; !slices.Equal(got, want) {
		t.Errorf("anchors %q, want %q", got, want)
	}
}
