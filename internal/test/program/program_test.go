//go:build unix

package program

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

// sh starts a shell script.
func sh(t *testing.T, script string) *Program {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	p, err := Start(exec.Command(path, "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestProgramEndsItself(t *testing.T) {
	for _, test := range []struct {
		script, says string
		fails        bool
	}{
		{"echo done", "sh has ended (exit status 0): done", false},
		{"echo oh >&2; exit 3", "sh has ended (exit status 3): oh", true},
	} {
		p := sh(t, test.script)
		if err := p.Err(); err != nil != test.fails {
			t.Errorf("%s: Err is %v", test.script, err)
		}
		if got := p.Ended(); got == nil || !strings.HasSuffix(got.Error(), test.says) {
			t.Errorf("%s: %v, want %s", test.script, got, test.says)
		}
	}
}

// A child that would go on for a minute ends with the shell that started it.
func TestKillEndsTheGroup(t *testing.T) {
	p := sh(t, "sleep 60 & echo $!; wait")
	for p.Output() == "" {
		time.Sleep(time.Millisecond) // polls another process
	}
	child := strings.TrimSpace(p.Output())
	p.Kill()
	for range 1000 {
		if exec.Command("kill", "-0", child).Run() != nil {
			return
		}
		time.Sleep(time.Millisecond) // polls another process
	}
	t.Errorf("process %s still runs", child)
}

func TestStop(t *testing.T) {
	for _, test := range []struct {
		name, script string
		patience     time.Duration
		want         string // of the error
	}{
		{"obeys", "echo ready; exec sleep 60", time.Minute, ""},
		{"does not obey", "trap '' TERM; echo ready; while :; do sleep 60; done", 500 * time.Millisecond, "did not end within"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := sh(t, test.script)
			for p.Output() == "" {
				time.Sleep(time.Millisecond) // polls another process
			}
			err := p.Stop(syscall.SIGTERM, test.patience)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if p.Ended() == nil {
				t.Error("it still runs")
			}
		})
	}
}

// Who waits for a port learns why the program will never listen.
func TestListens(t *testing.T) {
	free, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	p := sh(t, "echo no such option; exit 1")
	if err := p.Listens(fmt.Sprintf("127.0.0.1:%d", free)); err == nil || !strings.Contains(err.Error(), "no such option") {
		t.Errorf("got %v", err)
	}
	if _, err := Start(exec.Command("connreuse-no-such-program")); err == nil {
		t.Error("a program that is not there was started")
	}
}
