package sidebyside

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what configs refer to

	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

// RunsAsCaddy is the first thing a benchmark calls: the benchmark's own program
// is the Caddy that it loads. True means that it was, and is over.
func RunsAsCaddy() bool {
	if len(os.Args) < 2 || os.Args[1] != "run" {
		return false
	}
	caddycmd.Main()
	return true
}

// CaddyCommand is how to run Caddy with a config file, which keeps what it stores
// in a folder.
func CaddyCommand(file, state string, env ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "run", "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+state, "XDG_DATA_HOME="+state, "XDG_CONFIG_HOME="+state)
	cmd.Env = append(cmd.Env, env...)
	return cmd, nil
}

// A Caddy is a process of its own.
type Caddy struct {
	cmd   *exec.Cmd
	dir   string
	file  string // its configuration
	ended chan struct{}
}

// StartCaddy starts Caddy with HTTP servers, by name, and more settings. It
// issues certificates itself and does not yet listen when StartCaddy returns.
func StartCaddy(settings, servers map[string]any) (*Caddy, error) {
	return StartCaddyWith(settings, map[string]any{
		"http": map[string]any{"servers": servers},
		"tls":  map[string]any{"automation": map[string]any{"policies": []any{map[string]any{"issuers": []any{map[string]any{"module": "internal"}}}}}},
		"pki":  map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}},
	})
}

// StartCaddyWith is StartCaddy with all apps.
func StartCaddyWith(settings, apps map[string]any) (*Caddy, error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	c := &Caddy{dir: dir, file: filepath.Join(dir, "caddy.json")}
	config := maps.Clone(settings)
	config["storage"] = map[string]any{"module": "file_system", "root": dir}
	config["apps"] = apps
	text, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(c.file, text, 0o600)
	}
	if err == nil {
		err = c.start()
	}
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Folder is where it stores what it stores.
func (c *Caddy) Folder() string { return c.dir }

// Pid is the number of its process.
func (c *Caddy) Pid() int { return c.cmd.Process.Pid }

// Restart ends it and starts it anew, with what it has stored.
func (c *Caddy) Restart() error {
	_ = c.cmd.Process.Signal(os.Interrupt)
	<-c.ended
	return c.start()
}

func (c *Caddy) start() error {
	cmd, err := CaddyCommand(c.file, c.dir)
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd, c.ended = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state says the same, also of one that ended well
		close(c.ended)
	}()
	return nil
}

// Ended returns an error if it has ended by itself.
func (c *Caddy) Ended() error {
	select {
	case <-c.ended:
		return fmt.Errorf("the benchmarked Caddy has ended: %v", c.cmd.ProcessState)
	default:
		return nil
	}
}

// Listens waits until it accepts TCP connections at addr.
func (c *Caddy) Listens(addr string) error {
	return c.answers("Caddy", func() (net.Conn, error) { return net.Dial("tcp", addr) })
}

// Certified waits until it has a certificate for [Host] at addr.
func (c *Caddy) Certified(addr string) error {
	return c.answers("Caddy's certificate", func() (net.Conn, error) {
		return tls.Dial("tcp", addr, &tls.Config{ServerName: Host, InsecureSkipVerify: true})
	})
}

// answers waits until dial succeeds.
func (c *Caddy) answers(what string, dial func() (net.Conn, error)) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // polls another process
		conn, err := dial()
		if err == nil {
			return conn.Close()
		}
		if ended := c.Ended(); ended != nil {
			return ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
	}
}

// Stop ends it.
func (c *Caddy) Stop() {
	if c.cmd != nil {
		_ = c.cmd.Process.Signal(os.Interrupt)
		<-c.ended
	}
	_ = os.RemoveAll(c.dir)
}

// FreePort returns a port of 127.0.0.1 that nothing listens on.
func FreePort() (string, error) {
	port, err := port.Free()
	return strconv.Itoa(port), err
}
