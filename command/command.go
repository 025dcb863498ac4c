// Package command adds commands to Caddy that show, from outside, what the
// modules of connreuse decide by: when an upstream closes an idle connection,
// and what becomes of a request on a connection that was opened for another
// host.
//
//   - command.go has what the commands share: flags and exit codes
//   - keepalive.go measures when an upstream closes, keepalive_report.go writes that, and
//     advice.go what a Caddyfile should say
//   - coalesce.go compares sites; survey.go asks them, page.go and compare.go tell pages
//     apart, verdict.go judges, coalesce_report.go writes that
//   - check.go sets a config up without running it (check_load.go), and looks at it by
//     rules (check_rules.go), with a probe of its upstreams (check_probe.go) and of their
//     health checks (check_health.go)
//   - target.go is whom to ask, dial.go opens connections, speaker.go, http1.go and
//     http2.go speak on them, progress.go tells how far all that is
package command

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

const defaultTimeout = 10 * time.Second

// Exit codes beside 0. Where several apply to what keepalive or coalesce measured, it
// is interrupted before wrong before failed before found.
const (
	exitUsage       = caddy.ExitCodeFailedStartup
	exitWrong       = 1 // a client gets the page of another site, or a config is wrong
	exitInterrupted = caddy.ExitCodeForceQuit
	exitFound       = 3 // something is not as it should be
	exitFailed      = 4 // something could not be measured
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "connreuse",
		Short: "Commands that show how connections can be reused",
		Long: `
Shows from outside what decides whether a connection can be reused: when an
upstream closes an idle one, and what becomes of a request on a connection that
was opened for another host. And says what is wrong with a configuration, before
it runs.

None of the commands needs a running Caddy.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(keepAliveCommand(), coalesceCommand(), checkCommand())
		},
	})
}

// options are what the flags say.
type options struct {
	dialer
	maxWait        time.Duration
	json           bool
	stdout, stderr io.Writer
}

// addFlags adds the flags that both commands have, and what they run.
func addFlags(cmd *cobra.Command, run func(context.Context, caddycmd.Flags, options) (int, error)) {
	cmd.Flags().DurationP("timeout", "t", defaultTimeout, "How long connecting may take, and each response")
	cmd.Flags().BoolP("insecure", "k", false, "Do not check certificates (WARNING: anybody can answer)")
	cmd.Flags().StringP("cacert", "", "", "PEM file with the CAs to trust instead of the system's")
	cmd.Flags().StringArrayP("resolve", "", []string{}, "Addresses of a host instead of DNS (format: \"host:port:address[,address...]\")")
	cmd.Flags().BoolP("json", "j", false, "Write JSON")
	runCommand(cmd, func(fl caddycmd.Flags) (int, error) {
		opts, err := readOptions(fl)
		if err != nil {
			return exitUsage, err
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		// a second interrupt ends the process at once
		context.AfterFunc(ctx, stop)
		return run(ctx, fl, opts)
	})
}

// errFound makes the exit code 1 of a command that has found something. Caddy would
// make it 0, since there is no error to report.
var errFound = errors.New("found something")

// runCommand makes a function what a command runs. The exit code says it all; errors
// of the function are logged by Caddy.
func runCommand(cmd *cobra.Command, run caddycmd.CommandFunc) {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true
		code := 0
		err := caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			var err error
			code, err = run(fl)
			return code, err
		})(cmd, args)
		if err == nil && code == exitWrong {
			return errFound
		}
		return err
	}
}

func readOptions(fl caddycmd.Flags) (options, error) {
	opts := options{
		dialer: dialer{
			timeout: fl.Duration("timeout"), insecure: fl.Bool("insecure"),
			resolve: make(map[string][]string), lookup: net.DefaultResolver.LookupNetIP, dial: new(net.Dialer).DialContext,
		},
		json: fl.Bool("json"), stdout: os.Stdout, stderr: os.Stderr,
	}
	if opts.timeout <= 0 {
		return opts, fmt.Errorf("reading --timeout '%s': must be positive", opts.timeout)
	}
	if file := fl.String("cacert"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return opts, fmt.Errorf("reading --cacert: %w", err)
		}
		opts.roots = x509.NewCertPool()
		if !opts.roots.AppendCertsFromPEM(pem) {
			return opts, fmt.Errorf("reading --cacert '%s': there is no certificate in PEM form", file)
		}
		if opts.insecure {
			return opts, errors.New("--cacert and --insecure contradict each other")
		}
	}
	list, err := fl.GetStringArray("resolve")
	if err != nil {
		return opts, err
	}
	for _, text := range list {
		address, with, err := parseResolve(text)
		if err != nil {
			return opts, err
		}
		opts.resolve[address] = with
	}
	return opts, nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
