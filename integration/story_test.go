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
)

// A program is one that takes part in a story.
type program struct {
	dir    string
	env    []string // beyond this process's
	listen []string // ports it listens on when it is ready
	args   []string
}

// start starts the program, waits until it listens, and ends it with the test.
func (p program) start(t testing.TB) {
	t.Helper()
	output := new(logBuffer)
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir, cmd.Env = p.dir, append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.args[0], output.String())
		}
	})
	for _, port := range p.listen {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) { // polls another process
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-ended:
				t.Fatalf("%s ended:\n%s", p.args[0], output.String())
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("waiting for %s: %v\n%s", p.args[0], err, output.String())
			}
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
