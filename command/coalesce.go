package command

import (
	"context"
	"fmt"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

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
    first, compared with the one on a connection of its own: the same page,
    another page, or not comparable. Compared are status, redirect, title and
    contents (up to 1 MiB). A page that comes out differently is asked for twice
    more, to see what of it changes by itself.

Redirects are not followed. Neither cookies nor client certificates are sent.

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
  1  a client that coalesces gets another page than on a connection of its own;
     or the arguments are wrong
  2  interrupted
  3  a client that coalesces gets no answer, or is told by an ORIGIN frame what
     is then refused
  4  a pair could not be checked, or its pages are not comparable
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

// coalesce is the command coalesce.
func coalesce(ctx context.Context, urls []string, opts options) (int, error) {
	targets, err := parseTargets(urls)
	if err != nil {
		return exitUsage, err
	}
	for i, t := range targets {
		if t.scheme != "https" {
			return exitUsage, fmt.Errorf("reading URL '%s': the scheme must be https, since clients share no other connections", t.text)
		}
		for _, other := range targets[:i] {
			if other.origin() == t.origin() {
				return exitUsage, fmt.Errorf("reading URL '%s': '%s' is of the same origin, %s", t.text, other.text, t.origin())
			}
		}
	}
	s := newSurvey(&opts.dialer, targets)
	s.run(ctx)
	if opts.json {
		err = writeJSON(opts.stdout, s.json())
	} else {
		s.write(opts.stdout)
	}
	if err != nil {
		return exitFailed, err
	}
	return s.code(ctx), nil
}
