package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Book is where results are kept: a folder for them, a page with all of them, and
// a table of the headlines in the README, with all claims that do not hold.
type Book struct {
	Root      string   // of the repository
	Names     []string // of benchmarks, in the order of the page
	Headlines []string // names of claims; what a quick run says of them does not count
}

// The headline table stands between these lines of the README.
const (
	tableBegins = "<!-- written by go -C bench run . -write -->\n"
	tableEnds   = "<!-- end -->\n"
)

// Write adds a result, or replaces the one of the same name, and writes the page
// and the table anew.
func (b Book) Write(r *Result) error {
	folder := filepath.Join(b.Root, "docs", "results")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, r.Name+".json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	for _, p := range r.Plots {
		if err := p.write(filepath.Join(folder, p.Name+".svg")); err != nil {
			return err
		}
	}
	pages, err := b.Pages()
	for file, text := range pages {
		err = errors.Join(err, os.WriteFile(file, text, 0o644))
	}
	return err
}

// Pages returns what the results make of docs/results.md and of README.md, by file.
func (b Book) Pages() (map[string][]byte, error) {
	results, err := b.Results()
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	fmt.Fprint(&page, "# Results\n\nWritten by `go -C bench run . -write`; each section says when, with which versions, and whether it was a quick run.\n"+
		"Each claim has a name and a command that measures it anew. The command names the claims that do not hold, and fails then.\n"+
		"Beside a claim stands the same figure of what one would use instead, unless the claim compares by itself.\n\n")
	for _, one := range results {
		one.Markdown(&page, "results")
	}
	file := filepath.Join(b.Root, "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	before, rest, ok := strings.Cut(string(text), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !ok || !ends {
		return nil, fmt.Errorf("writing the headlines: %s has no lines %q and %q", file, tableBegins, tableEnds)
	}
	return map[string][]byte{
		filepath.Join(b.Root, "docs", "results.md"): page.Bytes(),
		file: []byte(before + tableBegins + b.headlines(results) + tableEnds + after),
	}, nil
}

// Results returns the newest result of each benchmark that has one.
func (b Book) Results() (results []*Result, err error) {
	folder := filepath.Join(b.Root, "docs", "results")
	for _, name := range b.Names {
		text, err := os.ReadFile(filepath.Join(folder, name+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r := new(Result)
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("reading the result of %s: %w", name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// headlines are the table of the headlines, and all claims that do not hold.
func (b Book) headlines(results []*Result) string {
	full := slices.DeleteFunc(slices.Clone(results), func(r *Result) bool { return r.Quick })
	var text bytes.Buffer
	table := Table{Columns: slices.Delete(slices.Clone(claimColumns), nameColumn, nameColumn+1)}
	for _, name := range b.Headlines {
		row := slices.Delete(headline(full, name), nameColumn, nameColumn+1)
		table.Rows = append(table.Rows, row)
	}
	table.markdown(&text)

	claims := 0
	var broken, measured []string
	for _, r := range full {
		measured = append(measured, r.Name)
		claims += len(r.Claims)
		for _, c := range r.Broken() {
			broken = append(broken, fmt.Sprintf("`%s` (%s, not %s)", c.Name, c.Value, c.Limit))
		}
	}
	if len(broken) == 0 {
		fmt.Fprintf(&text, "All %d claims of all sections hold.\n\n", claims)
	} else {
		fmt.Fprintf(&text, "Of %d claims of all sections, these do not hold: %s.\n\n", claims, strings.Join(broken, ", "))
	}
	missing := slices.DeleteFunc(slices.Clone(b.Names), func(name string) bool { return slices.Contains(measured, name) })
	if len(missing) > 0 {
		fmt.Fprintf(&text, "Not measured in full: %s.\n\n", strings.Join(missing, ", "))
	}
	return text.String()
}

// headline is the row of a claim, also of one that was not measured.
func headline(results []*Result, name string) []string {
	for _, r := range results {
		if i := slices.IndexFunc(r.Claims, func(c Claim) bool { return c.Name == name }); i >= 0 {
			return r.claimRows(r.Claims[i : i+1])[0]
		}
	}
	section, _, _ := strings.Cut(name, "/")
	missing := Result{Name: section}
	return missing.claimRows([]Claim{{Name: name, Text: "`" + name + "`", Value: "not measured"}})[0]
}
