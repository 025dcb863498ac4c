package integration

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCommands asks a running Caddy by command what connreuse makes of it.
func TestCommands(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		options string // global
		sites   string // in each site
		code    int
		origin  string
		clients string // that coalesce
		status  int
		verdict string
	}{
		{"stock", "", "", 0, "absent", "obeying ignoring", 200, "shared"},
		{"misdirected", "", "misdirected", 0, "absent", "obeying ignoring", 421, "refused"},
		{"misdirected and origin", "listener_wrappers {\n origin\n}", "misdirected", 0, "empty", "ignoring", 421, "refused"},
		{"origin lists what the certificate covers", "listener_wrappers {\n origin {\n origins sites\n }\n}", "misdirected {\n scope certificate\n}", 0, "listed", "obeying ignoring", 200, "shared"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, "servers {\n timeouts {\n idle 3s\n }\n"+test.options+"\n}",
				"*.command.test {\n"+test.sites+"\n respond 404\n}\n"+
					"a.command.test {\n"+test.sites+"\n respond a\n}\n"+
					"b.command.test {\n"+test.sites+"\n respond b\n}\n", []string{"a.command.test", "b.command.test"})
			a, b := "https://a.command.test:"+c.port, "https://b.command.test:"+c.port
			connreuse := func(args ...string) (string, int) {
				t.Helper()
				cmd := exec.Command(binary, append([]string{"connreuse", args[0], "--json",
					"--cacert", filepath.Join(c.dir, "caddy", "pki", "authorities", "local", "root.crt"),
					"--resolve", "a.command.test:" + c.port + ":127.0.0.1", "--resolve", "b.command.test:" + c.port + ":127.0.0.1"}, args[1:]...)...)
				out, err := cmd.Output()
				exit, ok := errors.AsType[*exec.ExitError](err)
				if err != nil && !ok {
					t.Fatal(err)
				}
				if ok {
					return string(out), exit.ExitCode()
				}
				return string(out), 0
			}

			out, code := connreuse("coalesce", a, b)
			var result struct {
				Pairs []struct {
					First, Second, Origin, Verdict string
					Status                         int
					Clients                        struct {
						Obeying  bool `json:"obeying_origin"`
						Ignoring bool `json:"ignoring_origin"`
					}
				}
			}
			if err := json.Unmarshal([]byte(out), &result); err != nil || len(result.Pairs) != 2 {
				t.Fatalf("exit code %d, %v: %s", code, err, out)
			}
			for _, p := range result.Pairs {
				if code != test.code || p.Origin != test.origin || p.Status != test.status || p.Verdict != test.verdict ||
					p.Clients.Obeying != strings.Contains(test.clients, "obeying") || p.Clients.Ignoring != strings.Contains(test.clients, "ignoring") {
					t.Errorf("exit code %d, %+v; want %+v", code, p, test)
				}
			}

			out, code = connreuse("keepalive", a)
			var idle struct {
				Results []struct {
					Events []struct {
						Event string
						After float64 `json:"after_seconds"`
					}
				}
			}
			if err := json.Unmarshal([]byte(out), &idle); err != nil || code != 0 {
				t.Fatalf("exit code %d, %v: %s", code, err, out)
			}
			// how exact is for the tests of the command itself
			if first := idle.Results[0].Events[0]; first.Event != "GOAWAY (NO_ERROR)" || first.After < 1 {
				t.Errorf("first seen is %+v, want GOAWAY after 3 s", first)
			}
		})
	}
}
