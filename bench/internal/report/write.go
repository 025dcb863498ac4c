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
// a table of the headlines in the README.
type Book struct {
	Root      string   // of the repository
	Names     []string // of benchmarks, in the order of the page
	Headlines []string // names of claims; those of quick runs are left out
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
	results, err := b.read(folder)
	if err != nil {
		return err
	}
	var page bytes.Buffer
	fmt.Fprint(&page, "# Results\n\nWritten by `go -C bench run . -write`; each section says when, with which versions, and whether it was a quick run.\n"+
		"Each claim has a name and a command that measures it anew. The command names the claims that do not hold, and fails then.\n\n")
	for _, one := range results {
		one.Markdown(&page, "results")
	}
	if err := os.WriteFile(filepath.Join(b.Root, "docs", "results.md"), page.Bytes(), 0o644); err != nil {
		return err
	}
	return b.writeHeadlines(results)
}

// read returns the newest result of each benchmark.
func (b Book) read(folder string) (results []*Result, err error) {
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

func (b Book) writeHeadlines(results []*Result) error {
	file := filepath.Join(b.Root, "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !ok || !ends {
		return fmt.Errorf("writing the headlines: %s has no lines %q and %q", file, tableBegins, tableEnds)
	}
	var rows [][]string
	for _, headline := range b.Headlines {
		for _, r := range results {
			if i := slices.IndexFunc(r.Claims, func(c Claim) bool { return c.Name == headline }); i >= 0 && !r.Quick {
				row := r.claimRows(r.Claims[i : i+1])[0]
				rows = append(rows, slices.Delete(row, nameColumn, nameColumn+1))
			}
		}
	}
	var table bytes.Buffer
	Table{Columns: slices.Delete(slices.Clone(claimColumns), nameColumn, nameColumn+1), Rows: rows}.markdown(&table)
	return os.WriteFile(file, []byte(before+tableBegins+table.String()+tableEnds+after), 0o644)
}
