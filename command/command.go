// Package command adds commands to Caddy that show, from outside, what the
// modules of connreuse decide by: when an upstream closes an idle connection,
// and what becomes of a request on a connection that was opened for another
// host.
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

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// defaultMaxWait is what it takes to see that the default of transport http and
// of upstreampool, 2 minutes, is safe: it must be below the upstream's timeout
// by the margin, a twentieth.
const defaultMaxWait = 2*time.Minute + 10*time.Second

const defaultTimeout = 10 * time.Second

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "connreuse",
		Short: "Commands that show how connections can be reused",
		Long: `
Shows from outside what decides whether a connection can be reused: when an
upstream closes an idle one, and what becomes of a request on a connection that
was opened for another host.

Neither command needs a running Caddy.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(keepAliveCommand(), coalesceCommand())
		},
	})
}

func keepAliveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keepalive [--max-wait <duration>] [--timeout <duration>] [--insecure] [--cacert <file>] [--resolve <host:port:address>] [--json] <url>...",
		Short: "Measures when an upstream closes an idle connection",
		Long: `
Opens a connection to each URL, sends one GET request as Caddy's proxy would,
reads the whole response, and waits until the server closes the connection.
Reports what the server announced, when it really closed, and what to write
into a Caddyfile.

A URL has scheme http, https (HTTP/2 or HTTP/1.1, as the server chooses) or h2c
(HTTP/2 without TLS). An upstream address as in a Caddyfile will do as well:
host:port, unix//path or unix+h2c//path. Several are measured side by side.
Redirects are not followed.

  --max-wait is how long to wait for the close. The default is enough to tell
    whether the defaults of Caddy's transports, 2 minutes, are safe.
  --timeout is how long connecting may take, and how long the response.
  --cacert names a PEM file with the CAs to trust instead of the system's.
  --insecure does without: the certificate is not checked.
  --resolve gives the addresses of a host instead of DNS, as with curl:
    host:port:address[,address...]. Can be repeated.
  --json writes JSON, for scripts.

The result is written to stdout, the progress to stderr. An interrupt (Ctrl-C)
ends the wait and prints what is known.

Exit codes:
  0  it is known of all URLs when the server closes, or that it keeps none
  1  the arguments are wrong
  2  interrupted
  3  a server did not close the connection within --max-wait
  4  a URL could not be measured
`,
		Example: `  $ caddy connreuse keepalive http://127.0.0.1:3000
  $ caddy connreuse keepalive --json 10.0.0.1:8080 10.0.0.2:8080 h2c://10.0.0.3:9000
  $ caddy connreuse keepalive --cacert upstream-ca.pem https://10.0.0.4`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().DurationP("max-wait", "w", defaultMaxWait, "How long to wait for the close")
	addFlags(cmd, func(ctx context.Context, fl caddycmd.Flags, opts options) (int, error) {
		opts.maxWait = fl.Duration("max-wait")
		if opts.maxWait <= 0 {
			return exitUsage, fmt.Errorf("reading --max-wait '%s': must be positive", opts.maxWait)
		}
		return keepAlive(ctx, fl.Args(), opts)
	})
	return cmd
}

func coalesceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "coalesce [--timeout <duration>] [--insecure] [--cacert <file>] [--resolve <host:port:address>] [--json] <url> <url>...",
		Short: "Shows what becomes of a request on a connection opened for another host",
		Long: `
A client may send the request for a second host on the HTTP/2 connection that it
opened for a first one (coalescing). For each ordered pair of https URLs, this
reports whether clients would, and what the server answers if they do:

  - whether both hosts have an address and the port in common,
  - whether the certificate presented for the first covers the second
    (RFC 9525),
  - whether an ORIGIN frame (RFC 8336) lists the second. Firefox obeys the frame
    and then needs no common address; Chromium ignores it,
  - the answer to a GET request for the second on a connection opened for the
    first, compared with the one on a connection of its own.

Redirects are not followed. Client certificates are not sent.

  --timeout is how long connecting may take, and how long each response.
  --cacert names a PEM file with the CAs to trust instead of the system's.
  --insecure does without: the certificates are not checked, except for the
    names in them.
  --resolve gives the addresses of a host instead of DNS, as with curl:
    host:port:address[,address...]. Can be repeated.
  --json writes JSON, for scripts.

The result is written to stdout. An interrupt (Ctrl-C) prints what is known.

Exit codes:
  0  no client gets a wrong answer
  1  the arguments are wrong
  2  interrupted
  3  a client that coalesces gets another answer than on a connection of its
     own, or is told by an ORIGIN frame what is then refused
  4  a pair could not be checked
`,
		Example: `  $ caddy connreuse coalesce https://www.example.com https://admin.example.com
  $ caddy connreuse coalesce --resolve a.test:443:127.0.0.1 --resolve b.test:443:127.0.0.1 --cacert root.crt https://a.test https://b.test`,
		Args: cobra.MinimumNArgs(2),
	}
	addFlags(cmd, func(ctx context.Context, fl caddycmd.Flags, opts options) (int, error) {
		return coalesce(ctx, fl.Args(), opts)
	})
	return cmd
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
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true // an exit code above 1 says it all
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			opts, err := readOptions(fl)
			if err != nil {
				return exitUsage, err
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			// a second interrupt ends the process at once
			context.AfterFunc(ctx, stop)
			return run(ctx, fl, opts)
		})(cmd, args)
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
			return opts, fmt.Errorf("reading --cacert: %v", err)
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

// keepAlive is the command keepalive.
func keepAlive(ctx context.Context, urls []string, opts options) (int, error) {
	targets, err := parseTargets(urls)
	if err != nil {
		return exitUsage, err
	}
	p := newProgress(opts.stderr, terminalWidth(opts.stderr, len(targets)), targets)
	all := opts.measureAll(ctx, targets, opts.maxWait, p)
	p.end()
	if opts.json {
		results := []keepAliveJSON{}
		for _, m := range all {
			results = append(results, m.json())
		}
		err = writeJSON(opts.stdout, map[string]any{"results": results})
	} else {
		for i, m := range all {
			if i > 0 {
				fmt.Fprintln(opts.stdout)
			}
			m.write(opts.stdout)
		}
	}
	if err != nil {
		return exitFailed, err
	}
	return keepAliveCode(all), nil
}

func parseTargets(urls []string) (targets []target, err error) {
	var errs []error
	for _, text := range urls {
		t, err := parseTarget(text)
		targets, errs = append(targets, t), append(errs, err)
	}
	return targets, errors.Join(errs...)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
