package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write puts a result into the folder docs and writes results.md anew, from the
// newest result of each name, in that order.
func Write(docs string, r *Result, names []string) error {
	folder := filepath.Join(docs, "results")
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
	var page bytes.Buffer
	fmt.Fprint(&page, "# Results\n\nWritten by `go run ./bench -write`; each section says when, with which versions, and whether it was a quick run.\n\n")
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(folder, name+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var one Result
		if err := json.Unmarshal(text, &one); err != nil {
			return fmt.Errorf("reading the result of %s: %w", name, err)
		}
		one.Markdown(&page, "results")
	}
	return os.WriteFile(filepath.Join(docs, "results.md"), page.Bytes(), 0o644)
}
