package coalescing

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

// A caddy is a running Caddy process: this program, see sidebyside.RunsAsCaddy.
type caddy struct {
	cmd *exec.Cmd
	log output.Buffer
}

// startCaddy starts Caddy with a config file and waits until it has a certificate
// for a name at an address. All its state is in a folder.
func startCaddy(ctx context.Context, file, state, addr, name string, env ...string) (*caddy, error) {
	cmd, err := sidebyside.CaddyCommand(file, state, env...)
	if err != nil {
		return nil, err
	}
	c := &caddy{cmd: cmd}
	c.cmd.Stderr = &c.log
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
			c.stop()
			return nil, fmt.Errorf("waiting for Caddy: %w\n%s", err, c.log.Since(0))
		case <-time.After(100 * time.Millisecond): // polls another process
		}
	}
}

func (c *caddy) stop() {
	_ = c.cmd.Process.Signal(os.Interrupt)
	_ = c.cmd.Wait()
}
