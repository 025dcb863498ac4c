// Package integration runs a real Caddy with the connreuse modules against real
// clients and servers on loopback.
package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/output"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"

	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// binary is Caddy with our modules, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "connreuse-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "caddy")
	args := []string{"build", "-o", binary}
	if race.Enabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../example")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building Caddy: %v\n%s", err, out)
		return 1
	}
	parallel.AtLeast(16) // most of them wait for others
	return needs.Report(m.Run())
}

// A caddy is a running Caddy process.
type caddy struct {
	t     testing.TB
	addr  string // host:port of the TLS listener
	port  string
	admin string // URL
	log   *logBuffer
	cmd   *exec.Cmd
	dir   string
}

// globals are the global options of every Caddyfile here; what a test adds goes
// into more.
func globals(port, admin, more string) string {
	return fmt.Sprintf(`{
	admin %s
	default_bind 127.0.0.1
	https_port %s
	auto_https disable_redirects
	local_certs
	skip_install_trust
	persist_config off
	metrics
	grace_period 2s
	log refusals {
		include http.handlers.misdirected
		level DEBUG
	}
	log default {
		exclude http.handlers.misdirected
	}
	%s
}
`, admin, port, more)
}

// startCaddy starts Caddy with a Caddyfile made of global options and sites, and
// waits until it has certificates for names.
func startCaddy(t testing.TB, options, sites string, names []string, env ...string) *caddy {
	t.Helper()
	c := newCaddy(t)
	file := filepath.Join(c.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(globals(c.port, strings.TrimPrefix(c.admin, "http://"), options)+sites), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(file, env...)
	c.certificates(c.addr, names)
	return c
}

// startExample starts Caddy with the Caddyfile of a folder of example. Its ports,
// but for PORT and ADMIN_PORT, come from env.
func startExample(t testing.TB, folder string, env ...string) *caddy {
	t.Helper()
	c := newCaddy(t)
	admin := c.admin[strings.LastIndex(c.admin, ":")+1:]
	c.run(filepath.Join("..", "example", folder, "Caddyfile"), append(env, "ADMIN_PORT="+admin, "STATE="+filepath.Join(c.dir, "caddy"))...)
	return c
}

// newCaddy chooses the ports of a Caddy.
func newCaddy(t testing.TB) *caddy {
	t.Helper()
	port := freePort(t)
	return &caddy{
		t: t, addr: "127.0.0.1:" + port, port: port, admin: "http://127.0.0.1:" + freePort(t),
		log: new(logBuffer), dir: t.TempDir(),
	}
}

// run starts Caddy with a Caddyfile.
func (c *caddy) run(file string, env ...string) {
	t := c.t
	t.Helper()
	c.cmd = exec.Command(binary, "run", "--config", file, "--adapter", "caddyfile")
	c.cmd.Env = append(os.Environ(), "HOME="+c.dir, "XDG_DATA_HOME="+c.dir, "XDG_CONFIG_HOME="+c.dir, "PORT="+c.port)
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stderr = c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- c.cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() {
			c.log.dump(t)
		}
		_ = c.cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("Caddy ended with: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Caddy did not end within a minute")
			_ = c.cmd.Process.Kill()
			<-exited
		}
		if _, race, found := strings.Cut(c.log.String(), "WARNING: DATA RACE"); found {
			race, _, _ = strings.Cut(race, "==================")
			t.Errorf("Caddy had a data race:%s", race)
		}
	})

	poll.Succeed(c.t, "Caddy to start", func() error {
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("Caddy ended: %v\n%s", err, c.log.String())
		default:
		}
		if !c.log.contains("serving initial configuration") {
			return errors.New("it has not said so")
		}
		return nil
	})
}

// certificates waits until Caddy has certificates for names.
func (c *caddy) certificates(addr string, names []string) {
	c.t.Helper()
	for _, name := range names {
		poll.Succeed(c.t, "a certificate for "+name, func() error {
			conn, err := tls.Dial("tcp", addr, clientTLS(name))
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

// clientTLS is a TLS config for a server name; "" sends none.
func clientTLS(sni string, alpn ...string) *tls.Config {
	return &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: alpn}
}

// stop ends Caddy before the test does.
func (c *caddy) stop() {
	c.t.Helper()
	_ = c.cmd.Process.Signal(os.Interrupt)
	poll.Until(c.t, "Caddy to end", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.admin, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
}

// get asks the admin API.
func (c *caddy) get(path string) string {
	c.t.Helper()
	resp, err := http.Get(c.admin + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("GET %s: %s, %v: %s", path, resp.Status, err, body)
	}
	return string(body)
}

// load loads a config through the admin API.
func (c *caddy) load(config []byte) error {
	resp, err := http.Post(c.admin+"/load", "application/json", bytes.NewReader(config))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("loading: %s: %s", resp.Status, body)
	}
	return err
}

// logged returns the log lines with that message.
func (c *caddy) logged(message string) (lines []map[string]any) {
	for line := range strings.SplitSeq(c.log.String(), "\n") {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && strings.Contains(fmt.Sprint(entry["msg"]), message) {
			lines = append(lines, entry)
		}
	}
	return lines
}

// A logBuffer collects what a process writes.
type logBuffer struct{ output.Buffer }

func (l *logBuffer) contains(s string) bool { return strings.Contains(l.String(), s) }

// dump shows the last lines.
func (l *logBuffer) dump(t testing.TB) {
	lines := strings.Split(l.String(), "\n")
	t.Logf("Caddy's log:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
}

func freePort(t testing.TB) string { return strconv.Itoa(testcaddy.FreePort(t)) }

// within is a context for one exchange with a server.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
