package caddyfile

import (
	"bytes"
	"encoding/json"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	adapter "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-connreuse/connreuse/internal/test/docs"
	"github.com/caddy-connreuse/connreuse/internal/test/golden"
	_ "github.com/caddy-connreuse/connreuse/misdirected"
	_ "github.com/caddy-connreuse/connreuse/origin"
	_ "github.com/caddy-connreuse/connreuse/upstreampool"
)

// adapt returns the JSON config of a Caddyfile.
func adapt(text []byte) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": "Caddyfile"})
	return config, err
}

// validate does what `caddy validate` does, with state in a folder of the test.
func validate(t *testing.T, config []byte) error {
	t.Helper()
	var cfg caddy.Config
	if err := json.Unmarshal(config, &cfg); err != nil {
		return err
	}
	cfg.StorageRaw, _ = json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}}}}
	return caddy.Validate(&cfg)
}

// TestGolden adapts each Caddyfile in testdata and compares the JSON, or the
// error, with the file next to it. What is accepted must also load.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, "testdata/"), ".caddyfile"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, err := adapt(text)
			same, other := strings.TrimSuffix(file, ".caddyfile")+".json", strings.TrimSuffix(file, ".caddyfile")+".error"
			var got bytes.Buffer
			if err != nil {
				same, other = other, same
				got.WriteString(err.Error())
			} else if err := json.Indent(&got, config, "", "\t"); err != nil {
				t.Fatal(err)
			} else if err := validate(t, config); err != nil {
				t.Errorf("adapted, but not valid: %v", err)
			}
			got.WriteByte('\n')
			golden.Check(t, same, got.Bytes())
			golden.Absent(t, other)
		})
	}
}

// TestExamplesInJSON holds the JSON beside each example against its Caddyfile, with
// the default of each environment variable.
func TestExamplesInJSON(t *testing.T) {
	files, err := filepath.Glob("../example/*/Caddyfile")
	if err != nil || len(files) < 5 {
		t.Fatalf("only %d examples: %v", len(files), err)
	}
	for _, file := range append(files, "../example/Caddyfile") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		config, err := adapt(text)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var got bytes.Buffer
		if err := json.Indent(&got, config, "", "\t"); err != nil {
			t.Fatal(err)
		}
		got.WriteByte('\n')
		golden.Check(t, filepath.Join(filepath.Dir(file), "caddy.json"), got.Bytes())
	}
}

// TestCaddyfilesOfDocs adapts, validates and formats each Caddyfile that the
// README, the docs, the examples and package comments show, and validates the JSON
// there: that of a handler, a list of listener wrappers or a transport.
func TestCaddyfilesOfDocs(t *testing.T) {
	found := 0
	check := func(name string, text []byte) {
		found++
		t.Run(name, func(t *testing.T) {
			if formatted := adapter.Format(text); !bytes.Equal(formatted, text) {
				t.Errorf("not as `caddy fmt` has it:\n%s\nbut:\n%s", text, formatted)
			}
			config, err := adapt(text)
			if err == nil {
				err = validate(t, config)
			}
			if err != nil {
				t.Errorf("%v in\n%s", err, text)
			}
		})
	}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") && path != ".."):
			return filepath.SkipDir
		case entry.IsDir():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".md") {
			for _, block := range docs.Blocks(string(text), "caddyfile") {
				check(path, []byte(block))
			}
			for _, block := range docs.Blocks(string(text), "json") {
				server := `"routes":[{"handle":[` + block + `]}]`
				switch {
				case block[0] == '[':
					server = `"listener_wrappers":` + block
				case strings.Contains(block, `"protocol":`):
					server = `"routes":[{"handle":[{"handler":"reverse_proxy","transport":` + block + `}]}]`
				}
				if err := validate(t, []byte(`{"apps":{"http":{"servers":{"srv0":{"listen":[":8443"],`+server+`}}}}}`)); err != nil {
					t.Errorf("%s: %v in\n%s", path, err, block)
				}
			}
		} else if strings.Contains(entry.Name(), "Caddyfile") {
			check(path, text)
		} else if strings.HasSuffix(path, ".go") {
			for _, block := range packageComment(t, path, text) {
				if strings.HasSuffix(block, "}\n") {
					check(path, []byte(block))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 5 {
		t.Errorf("%d Caddyfiles found, want those of README, docs and examples", found)
	}
}

// packageComment returns the code blocks of a file's package comment.
func packageComment(t *testing.T, path string, text []byte) (blocks []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.PackageClauseOnly|parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range new(comment.Parser).Parse(file.Doc.Text()).Content {
		if code, ok := block.(*comment.Code); ok {
			blocks = append(blocks, code.Text)
		}
	}
	return blocks
}
