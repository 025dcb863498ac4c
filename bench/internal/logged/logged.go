// Package logged runs Caddy with a Caddyfile and keeps its log, which says what
// browsers did.
package logged

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/output"
)

// A Caddy is a running Caddy process: this program, see sidebyside.RunsAsCaddy.
type Caddy struct {
	Log output.Buffer
	cmd *exec.Cmd
}

// Start starts Caddy with a config file and waits until it has a certificate
// for a name at an address. All its state is in a folder.
func Start(ctx context.Context, file, state, addr, name string, env ...string) (*Caddy, error) {
	cmd, err := sidebyside.CaddyCommand(file, state, env...)
	if err != nil {
		return nil, err
	}
	c := &Caddy{cmd: cmd}
	c.cmd.Stderr = &c.Log
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	for {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = conn.Close()
			return c, nil
		}
		select {
		case <-ctx.Done():
			c.Stop()
			return nil, fmt.Errorf("waiting for Caddy: %w\n%s", err, c.Log.Since(0))
		case <-time.After(100 * time.Millisecond): // polls another process
		}
	}
}

// Stop ends it.
func (c *Caddy) Stop() {
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
}
