package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// build builds the command as `go run` does.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return bin
}

// TestDemo starts the demo, runs each command it prints in a shell, and checks
// that it shows what the line above it says.
func TestDemo(t *testing.T) {
	needs.Program(t, "curl", "curl")
	bin := build(t)
	home := t.TempDir()

	t.Run("a port is taken", func(t *testing.T) {
		ln, err := net.Listen("tcp", upstreamAddr)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		out, err := exec.Command(bin).CombinedOutput()
		const want = "demo: another program listens on " + upstreamAddr + " already: stop it and try again\n"
		if err == nil || string(out) != want {
			t.Errorf("%v, output %q; want %q", err, out, want)
		}
	})

	demo := exec.Command(bin)
	demo.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home)
	var stderr bytes.Buffer
	demo.Stderr = &stderr
	stdout, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(2*time.Minute, func() { _ = demo.Process.Kill() })
	defer timer.Stop()

	ran, expect := 0, ""
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		line := scanner.Text()
		switch {
		case strings.HasPrefix(line, "# "):
			expect = line[2:]
		case strings.HasPrefix(line, "curl "):
			ran++
			status, _, _ := strings.Cut(expect, ":")
			out, err := exec.Command("sh", "-c", line).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "("+status+")") {
				t.Errorf("%s\n%s\n%v: %s", expect, line, err, out)
			}
			if strings.Contains(line, "/metrics") {
				// connections for shop and vault are told of blog or of nothing
				for _, want := range []string{`outcome="misdirected",protocol="h2",server="srv0"} 2`, `caddy_origin_frames_total{server="srv0"} `, `caddy_origin_advertised_origins_total{server="srv0"} `, `caddy_upstreampool_requests_total{connection="new",upstream="127.0.0.1:8081"} 1`} {
					if !strings.Contains(string(out), want) {
						t.Errorf("metrics lack %s:\n%s", want, out)
					}
				}
			}
			if strings.Contains(line, "/explain") && !strings.Contains(string(out), `"answer":"421"`) {
				t.Errorf("%s\n%s", line, out)
			}
		case strings.Contains(line, "Ctrl-C"):
			if err := demo.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := demo.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", err, &stderr)
	}
	if ran != 7 {
		t.Errorf("%d commands were printed, want 7", ran)
	}
	if n := strings.Count(stderr.String(), "misdirected request"); n != 2 {
		t.Errorf("%d refusals were logged, want 2:\n%s", n, &stderr)
	}
	if left, err := filepath.Glob(home + "/*"); err != nil || len(left) > 0 {
		t.Errorf("the demo left %v behind", left)
	}
}

// With arguments the example is the caddy command.
func TestCommand(t *testing.T) {
	out, err := exec.Command(build(t), "list-modules").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, module := range []string{"http.handlers.misdirected", "caddy.listeners.origin", "admin.api.connreuse", "http.reverse_proxy.transport.upstreampool", "connreuse", "http.handlers.reverse_proxy"} {
		if !strings.Contains("\n"+string(out), "\n"+module+"\n") {
			t.Errorf("list-modules does not show %s", module)
		}
	}
}
