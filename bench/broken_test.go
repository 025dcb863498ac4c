package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// A breakage is a change of the code that breaks what the project promises.
type breakage struct {
	name      string
	file      string
	changes   []string // old and new texts of the file, in pairs
	benchmark string
	claim     string // that the message names, or how its name begins
	programs  map[string]string
}

var breakages = []breakage{
	{
		name: "the idle limit is not below the upstream's timeout", file: "internal/idletime/limit.go",
		changes: []string{"func (k *knowledge) margin(keepAlive time.Duration) time.Duration {\n",
			"func (k *knowledge) margin(keepAlive time.Duration) time.Duration {\n\tif keepAlive > 0 {\n\t\treturn -100 * time.Millisecond\n\t}\n"},
		benchmark: "boundary", claim: "boundary/",
		programs: map[string]string{"node": "nodejs", "nginx": "nginx-light"},
	},
	{
		name: "one pool for all server names", file: "upstreampool/core.go",
		changes: []string{
			"func (c *core) pool(tg *target) *pool {\n",
			"func (c *core) anyName(tg *target) *pool {\n\tc.mu.RLock()\n\tdefer c.mu.RUnlock()\n" +
				"\tfor k, p := range c.pools {\n\t\tif k.sni = tg.key.sni; k == tg.key {\n\t\t\treturn p\n\t\t}\n\t}\n\treturn nil\n}\n\n" +
				"func (c *core) pool(tg *target) *pool {\n\tif p := c.anyName(tg); p != nil {\n\t\treturn p\n\t}\n",
		},
		benchmark: "identity", claim: "identity/h1-1",
	},
	{
		name: "ORIGIN frames with every name", file: "internal/authority/origins.go",
		changes: []string{"func (s *Snapshot) absence(by Naming, sni, host string, shown *presented) Absence {\n",
			"func (s *Snapshot) absence(by Naming, sni, host string, shown *presented) Absence {\n\tif shown.cover(host) {\n\t\treturn Advertised\n\t}\n"},
		benchmark: "identity", claim: "identity/origin",
	},
	{
		name: "a catch-all is advertised", file: "internal/authority/origins.go",
		changes:   []string{"by != Listed && !s.hosts.names(host)", "false", "by != Listed && !s.hosts.isOpen(host)", "false"},
		benchmark: "identity", claim: "identity/catch-all",
	},
	{
		name: "Alt-Svc is left alone", file: "misdirected/altsvc.go",
		changes:   []string{"if !h.guard.KeepsAltSvc && a.layer", "if false && a.layer"},
		benchmark: "browsers", claim: "browsers/chromium-h3",
		programs: map[string]string{"chromium": "chromium", "firefox-esr": "firefox-esr", "certutil": "libnss3-tools"},
	},
	{
		name: "one dial for all", file: "internal/demand/dials.go",
		changes:   []string{"d.hedges++", "d.hedges = 0"},
		benchmark: "sick", claim: "sick/silent",
		programs: map[string]string{"haproxy": "haproxy", "nginx": "nginx-light"},
	},
	{
		name: "the sensor is believed in silence", file: "internal/connpool/sensor.go",
		changes:   []string{"l.proof = l.sensor.proof(interval)", "l.proof = idletime.Answered"},
		benchmark: "sick", claim: "sick/late",
		programs: map[string]string{"haproxy": "haproxy", "nginx": "nginx-light"},
	},
	{
		name: "addresses of names are not followed", file: "upstreampool/dns.go",
		changes:   []string{"c.names.Follow(p.host)", "_ = p.host"},
		benchmark: "sick", claim: "sick/dns",
		programs: map[string]string{"haproxy": "haproxy", "nginx": "nginx-light"},
	},
	{
		name: "what was learned is not read after a restart", file: "internal/remember/store.go",
		changes:   []string{"found != (idletime.Memory{})", "false && found != (idletime.Memory{})"},
		benchmark: "coldstart", claim: "coldstart/known",
	},
	{
		name: "no connection is pinned", file: "upstreampool/pins.go",
		changes:   []string{"func ofConnection(s string) bool {\n", "func ofConnection(s string) bool {\n\tif s != \"\" {\n\t\treturn false\n\t}\n"},
		benchmark: "person", claim: "person/h1",
		programs: map[string]string{"haproxy": "haproxy"},
	},
}

// TestBrokenHeadlines breaks what the project promises, on purpose, and runs the
// benchmark that would notice: it fails and names the claim.
func TestBrokenHeadlines(t *testing.T) {
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			broken := b.source(t) // also where it is not built: the code may have moved
			needs.Long(t)         // it builds a program, and measures
			if race.Enabled {
				t.Skip("the race detector is too slow to measure anything")
			}
			for program, debianPackage := range b.programs {
				needs.Program(t, program, debianPackage)
			}
			out, err := b.run(t, broken)
			// The name alone stands in the table of all claims.
			named := regexp.MustCompile(`(?m)^(bench: )?` + regexp.QuoteMeta(b.claim) + `\S* does not hold: .*$`).FindString(out)
			if err == nil || named == "" {
				t.Errorf("the benchmark does not notice: %v\n%s", err, out)
			}
			t.Log(named)
		})
	}
}

// path returns the file's place.
func (b *breakage) path(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, b.file)
}

// source returns the changed file.
func (b *breakage) source(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(b.path(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b.changes); i += 2 {
		if strings.Count(string(text), b.changes[i]) != 1 {
			t.Fatalf("%s does not have once: %s", b.file, b.changes[i])
		}
	}
	return strings.NewReplacer(b.changes...).Replace(string(text))
}

// run runs the benchmark of a source tree in which the file is changed.
func (b *breakage) run(t *testing.T, source string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	broken, overlay, program := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "bench")
	if err := os.WriteFile(broken, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{b.path(t): broken}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the broken program: %v\n%s", err, out)
	}
	cmd := exec.Command(program, "-quick", b.benchmark)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}
