// Package program runs the other programs of tests and benchmarks.
package program

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/output"
)

// A Program runs, or has run. The processes it starts are a group on Unix, so that
// none of them outlives it.
type Program struct {
	cmd    *exec.Cmd
	output output.Buffer
	ended  chan struct{}
	err    error // set before ended is closed
}

// Start starts a command and keeps what it writes.
func Start(cmd *exec.Cmd) (*Program, error) {
	p := &Program{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	cmd.WaitDelay = time.Second // a child that lives on keeps the output open
	group(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Args[0], err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Output is what the program wrote so far, to standard output and standard error.
func (p *Program) Output() string { return p.output.String() }

// Ended returns an error with the program's last words once it has ended, in
// whichever way.
func (p *Program) Ended() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended (%v): %s", p.cmd.Args[0], p.exit(), strings.TrimSpace(p.Output()))
	default:
		return nil
	}
}

// exit is how it ended, in words.
func (p *Program) exit() string {
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

// Listens waits until something accepts TCP connections at addr. It gives up when
// the program ends, or after 30 s.
func (p *Program) Listens(addr string) error {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) { // polls another process
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if ended := p.Ended(); ended != nil {
			return ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w: %s", p.cmd.Args[0], err, strings.TrimSpace(p.Output()))
		}
	}
}

// Stop sends the program a signal and waits until it has ended. A program that has
// not after that time is killed, which is an error. Where the system has no such
// signal, as Windows has none, it is killed at once.
func (p *Program) Stop(signal os.Signal, within time.Duration) error {
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.Kill()
		return nil
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(within):
		p.Kill()
		return fmt.Errorf("%s did not end within %v", p.cmd.Args[0], within)
	}
}

// Kill ends the program and those it started at once.
func (p *Program) Kill() {
	kill(p.cmd.Process)
	<-p.ended
}

// Err waits until the program has ended, and returns an error if its exit status
// is not 0.
func (p *Program) Err() error {
	<-p.ended
	return p.err
}
