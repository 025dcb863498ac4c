package integration

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// A player is a program that takes part in a story.
type player struct {
	dir    string
	env    []string // beyond this process's
	listen []string // ports it listens on when it is ready
	args   []string
}

// start starts the program, waits until it listens, and ends it with the test.
func (p player) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), p.env...)
	running, err := program.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = running.Stop(syscall.SIGTERM, 10*time.Second)
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.args[0], running.Output())
		}
	})
	for _, port := range p.listen {
		if err := running.Listens("127.0.0.1:" + port); err != nil {
			t.Fatal(err)
		}
	}
}

// example is the absolute path of a file in a folder of ../example.
func example(t testing.TB, folder, file string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "example", folder, file))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// toPort is an HTTP client whose every URL leads to one port of loopback.
func toPort(t testing.TB, port string, protocols func(*http.Protocols)) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Protocols:       new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		},
	}
	protocols(transport.Protocols)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}
