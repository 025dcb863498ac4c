package command

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/golden"
)

// runCaddy prepares a run of the test binary as the caddy command.
func runCaddy(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), asCaddy+"=1", "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	return cmd
}

// exitCode is that of a command that has ended.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

// TestHelp: the help texts, as Caddy prints them.
func TestHelp(t *testing.T) {
	for _, args := range []string{"connreuse", "connreuse keepalive", "connreuse coalesce", "connreuse check"} {
		out, err := runCaddy(t, append(strings.Fields(args), "--help")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", "help", strings.ReplaceAll(args, " ", "_")+".txt")
		golden.Check(t, file, out)
	}
}

// TestExitCodes runs the command as an operator does.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	server := func(idle time.Duration, handler http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.Config.IdleTimeout = idle
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(s.Close)
		return s
	}
	// A busy machine must not take longer to send a request on a new connection.
	const idle = 2 * time.Second
	closes := server(idle, func(http.ResponseWriter, *http.Request) {})
	closes.Start()
	stays := server(0, func(http.ResponseWriter, *http.Request) {})
	stays.Start()
	secure := server(idle, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Host, r.TLS.ServerName+":") {
			w.WriteHeader(http.StatusNotFound) // another page on a shared connection
		}
		fmt.Fprintf(w, "This is %s.", r.Host)
	})
	secure.EnableHTTP2 = true
	secure.StartTLS()
	_, port, err := net.SplitHostPort(secure.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if cert, _, err := testcert.PEM(secure.TLS.Certificates[0]); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	notPEM := filepath.Join(t.TempDir(), "not.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody := fmt.Sprintf("127.0.0.1:%d", testcaddy.FreePort(t))
	resolve := func(name string) string {
		return "--resolve=" + name + ":" + port + ":127.0.0.1"
	}

	for _, test := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // what is in them
	}{
		{"closed", []string{"keepalive", closes.URL}, 0, closes.URL + ": closes an idle connection after ", ": done\n"},
		{"JSON", []string{"keepalive", "--json", closes.URL}, 0, `"outcome": "closed"`, ": done\n"},
		{"trusted", []string{"keepalive", "--cacert", ca, secure.URL}, 0, "protocol   h2", ""},
		{"insecure", []string{"keepalive", "-k", secure.URL}, 0, "GOAWAY (NO_ERROR) after ", ""},
		{"resolved", []string{"keepalive", "--cacert", ca, resolve("example.com"), "https://example.com:" + port}, 0, "closes an idle connection after ", ""},
		{"not closed", []string{"keepalive", "--max-wait", "100ms", stays.URL}, 3, "did not close an idle connection within 100ms", ""},
		{"untrusted", []string{"keepalive", secure.URL}, 4, "--cacert <file> names a CA to trust, --insecure does without", ""},
		{"refused", []string{"keepalive", nobody}, 4, "could not be measured: connecting to " + nobody + ": connect: connection refused", ""},
		{"mixed", []string{"keepalive", "--max-wait=100ms", stays.URL, nobody}, 4, "connection refused", ""},
		{"no URL", []string{"keepalive"}, 1, "", "requires at least 1 arg(s), only received 0"},
		{"bad URL", []string{"keepalive", "ftp://a"}, 1, "", "reading URL 'ftp://a': the scheme must be http, https or h2c, not 'ftp'"},
		{"bad max-wait", []string{"keepalive", "--max-wait=0s", nobody}, 1, "", "reading --max-wait '0s': must be positive"},
		{"bad timeout", []string{"keepalive", "--timeout=-1s", nobody}, 1, "", "reading --timeout '-1s': must be positive"},
		{"no CA file", []string{"keepalive", "--cacert=/nowhere", nobody}, 1, "", "reading --cacert: open /nowhere: no such file or directory"},
		{"no CA in it", []string{"keepalive", "--cacert", notPEM, nobody}, 1, "", "there is no certificate in PEM form"},
		{"CA and insecure", []string{"keepalive", "-k", "--cacert", ca, nobody}, 1, "", "--cacert and --insecure contradict each other"},
		{"bad resolve", []string{"keepalive", "--resolve", "a:443", nobody}, 1, "", "reading --resolve 'a:443': must be <host>:<port>:<address>[,<address>...]"},
		{"unknown flag", []string{"keepalive", "--wait=1s", nobody}, 1, "", "unknown flag: --wait"},

		{"wrong page", []string{"coalesce", "--cacert", ca, resolve("example.com"), resolve("www.example.com"), "https://example.com:" + port, "https://www.example.com:" + port},
			1, "Another page: a client that coalesces asks for www.example.com:" + port + " and gets another page than on", ""},
		{"unchecked", []string{"coalesce", "--json", "https://" + nobody, "https://localhost:" + port}, 4, `"verdict": "unchecked"`, ""},
		{"one URL", []string{"coalesce", secure.URL}, 1, "", "requires at least 2 arg(s), only received 1"},
		{"http", []string{"coalesce", secure.URL, closes.URL}, 1, "", "the scheme must be https, since clients share no other connections"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := runCaddy(t, append([]string{"connreuse"}, test.args...)...)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			code := exitCode(t, cmd.Run())
			if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit code %d, want %d with %q and %q\n%s\n%s", code, test.code, test.stdout, test.stderr, &stdout, &stderr)
			}
			if strings.Contains(stderr.String(), "exiting with status") {
				t.Errorf("the exit code is told in words: %s", &stderr)
			}
		})
	}
}

// TestInterrupt: Ctrl-C prints what is known.
func TestInterrupt(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(s.Close)
	cmd := runCaddy(t, "connreuse", "keepalive", s.URL)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.HasSuffix(lines.Text(), ": waiting for the close") {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
	code := exitCode(t, cmd.Wait())
	if want := s.URL + ": idle for "; code != 2 || !strings.HasPrefix(stdout.String(), want) || !strings.Contains(stdout.String(), "when interrupted, not closed") {
		t.Errorf("exit code %d, want 2 with %q\n%s", code, want, &stdout)
	}
}
