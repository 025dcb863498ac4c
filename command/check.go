package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [--adapter <name>] [--probe] [--timeout <duration>] [--json] [<file>]",
		Short: "Says what is wrong with a configuration, or left open by it",
		Long: `
Reads a configuration, ./Caddyfile unless a file is named, and says what would go
wrong with the connections that it lets clients and upstreams share. It finds what
Caddy warns of when it starts with the modules of connreuse, and

  - listener wrappers behind TLS that hide it, so that misdirected refuses all,
  - servers blocks in a Caddyfile that never apply,
  - health checks that will fail: by this configuration of itself, of a reverse_proxy
    without the request that its settings need, and of load balancers without Host,
  - with --probe, connections to upstreams that are kept for longer than the
    upstream announces.

Nothing is started or written: logging, admin and storage settings are left out,
and a temporary folder stands in for Caddy's own. Modules are set up, however, as
when Caddy starts. Those of others may reach the network when they are, and those
that write files at places of their own may do so.

Certificates in files count with the names in them. Those that Caddy manages are
judged by the names they are for; none is looked up in the storage.

  --adapter is the config adapter; "caddyfile" for a Caddyfile, none for JSON.
    The default is to tell from the file's name.
  --probe sends one GET request to each upstream that the configuration names, to
    read the timeout that it announces.
  --timeout is how long connecting may take with --probe, and each response.
  --json writes JSON, for scripts.

Exit codes:
  0  nothing was found
  1  something was found, the configuration does not load, or the arguments are
     wrong
`,
		Example: `  $ caddy connreuse check
  $ caddy connreuse check --probe --json /etc/caddy/Caddyfile
  $ caddy connreuse check --adapter "" config.json`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter")
	cmd.Flags().BoolP("probe", "p", false, "Ask upstreams for the timeout that they announce")
	cmd.Flags().DurationP("timeout", "t", defaultTimeout, "How long connecting may take with --probe, and each response")
	cmd.Flags().BoolP("json", "j", false, "Write JSON")
	runCommand(cmd, func(fl caddycmd.Flags) (int, error) {
		o := checkOptions{
			file: fl.Arg(0), adapter: fl.String("adapter"), json: fl.Bool("json"),
			probe: fl.Bool("probe"), timeout: fl.Duration("timeout"), stdout: os.Stdout,
		}
		if o.timeout <= 0 {
			return exitUsage, fmt.Errorf("reading --timeout '%s': must be positive", o.timeout)
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return check(ctx, o)
	})
	return cmd
}

// check is the command check.
func check(ctx context.Context, o checkOptions) (code int, err error) {
	dir, err := os.MkdirTemp("", "caddy-connreuse-check-")
	if err != nil {
		return exitUsage, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// What modules keep in Caddy's folders, beside its storage, goes there, too.
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if value, ok := os.LookupEnv(name); ok {
			defer os.Setenv(name, value)
		} else {
			defer os.Unsetenv(name)
		}
	}
	c, err := load(o, dir)
	if err != nil {
		return exitUsage, err
	}
	report := c.report()
	if o.probe && report.Error == "" {
		found, notes := probe(ctx, c, o.timeout)
		report.Findings = append(report.Findings, found...)
		report.Notes = append(report.Notes, notes...)
	}
	slices.SortStableFunc(report.Findings, func(a, b finding) int { return cmp.Compare(a.Server, b.Server) })
	if o.json {
		err = writeJSON(o.stdout, report)
	} else {
		report.write(o.stdout)
	}
	switch {
	case err != nil:
		return exitUsage, err
	case report.Error != "" || len(report.Findings) > 0:
		return exitWrong, nil
	default:
		return caddy.ExitCodeSuccess, nil
	}
}

// A checkReport is what --json writes. Lists are never null.
type checkReport struct {
	Config string `json:"config"`
	// Why the config does not load; then there may be more to find.
	Error    string    `json:"error,omitempty"`
	Findings []finding `json:"findings"`
	// What could not be looked into.
	Notes []string `json:"notes"`
}

// A finding is something that is wrong, or left open.
type finding struct {
	// The HTTP server it is about.
	Server string `json:"server,omitempty"`
	// Which module says so; "check" is the command itself.
	Module  string         `json:"module"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`
}

// write writes the report for people.
func (r checkReport) write(w io.Writer) {
	switch {
	case r.Error != "":
		fmt.Fprintf(w, "%s: does not load: %s\n", r.Config, printable(r.Error))
	case len(r.Findings) == 0:
		fmt.Fprintf(w, "%s: nothing was found\n", r.Config)
	case len(r.Findings) == 1:
		fmt.Fprintf(w, "%s: 1 finding\n", r.Config)
	default:
		fmt.Fprintf(w, "%s: %d findings\n", r.Config, len(r.Findings))
	}
	for _, f := range r.Findings {
		fmt.Fprintln(w)
		if f.Server != "" {
			fmt.Fprintf(w, "%s: ", f.Server)
		}
		fmt.Fprintln(w, printable(f.Message))
		for _, name := range sortedKeys(f.Details) {
			fmt.Fprintf(w, "  %-12s %s\n", name, printable(plain(f.Details[name])))
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "\nNote: %s\n", printable(note))
	}
}
