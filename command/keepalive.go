package command

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// defaultMaxWait is what it takes to see that the default of transport http and
// of upstreampool, 2 minutes, is safe: it must be below the upstream's timeout
// by the margin, a twentieth.
const defaultMaxWait = 2*time.Minute + 10*time.Second

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

// An outcome is what became of one URL. The values are part of the JSON output.
type outcome string

const (
	outcomeClosed      outcome = "closed"       // the server closed the idle connection
	outcomeOpen        outcome = "open"         // it did not within --max-wait
	outcomeNotReusable outcome = "not_reusable" // it keeps no connection at all
	outcomeFailed      outcome = "failed"       // it could not be measured
	outcomeInterrupted outcome = "interrupted"
)

// A measurement is what one connection showed.
type measurement struct {
	target    target
	outcome   outcome
	answer    answer
	roundTrip time.Duration
	idle      time.Duration // since the end of the response
	maxWait   time.Duration
	seen      idle
	err       error
}

// idle is what happened on an idle connection.
type idle struct {
	events  []event
	closed  bool // by the server; on HTTP/2, GOAWAY is enough
	surplus int  // bytes that answer no request
	sample  string
}

// surplusBytes is the one event that does not end the connection.
const surplusBytes = "surplus bytes"

type event struct {
	what  string
	after time.Duration
}

func (i *idle) note(what string, begin time.Time) {
	i.events = append(i.events, event{what, time.Since(begin)})
}

// announced is the keep-alive timeout in the response, and whether one counts.
func (m measurement) announced() (time.Duration, bool) {
	return idletime.AnnouncedTimeout(m.answer.header)
}

// keepAliveField is the Keep-Alive field of the response, whether it counts or not.
func (m measurement) keepAliveField() string {
	return strings.Join(m.answer.header["Keep-Alive"], ", ")
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

// measure opens a connection, sends one request and waits for the close. It
// tells report what it is doing, and since when the connection is idle.
func (d *dialer) measure(ctx context.Context, t target, maxWait time.Duration, report func(state string, since time.Time)) measurement {
	m := measurement{target: t, maxWait: maxWait}
	fail := func(err error) measurement {
		m.outcome, m.err = outcomeFailed, err
		if ctx.Err() != nil {
			m.outcome, m.err = outcomeInterrupted, nil
		}
		report(string(m.outcome), time.Time{})
		return m
	}
	report("connecting", time.Time{})
	c, err := d.open(ctx, t)
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, c.interrupt)()
	m.roundTrip = c.roundTrip

	report("waiting for the response", time.Time{})
	s, err := c.speak()
	if err != nil {
		return fail(err)
	}
	m.answer, err = s.get(t, nil)
	begin := time.Now()
	if err != nil {
		return fail(err)
	}
	if m.answer.last != "" {
		m.outcome = outcomeNotReusable
		report("done", time.Time{})
		return m
	}
	report("waiting for the close", begin)
	m.seen = s.watch(begin, maxWait)
	m.idle = time.Since(begin)
	switch {
	case m.seen.closed:
		m.outcome = outcomeClosed
	case ctx.Err() != nil:
		m.outcome = outcomeInterrupted
	default:
		m.outcome = outcomeOpen
	}
	report("done", time.Time{})
	return m
}

// measureAll measures all targets side by side.
func (d *dialer) measureAll(ctx context.Context, targets []target, maxWait time.Duration, p *progress) []measurement {
	all := make([]measurement, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() {
			all[i] = d.measure(ctx, t, maxWait, func(state string, since time.Time) { p.set(i, state, since) })
		})
	}
	wg.Wait()
	return all
}

// keepAliveCode is the exit code for the outcomes.
func keepAliveCode(all []measurement) int {
	has := make(map[outcome]bool)
	for _, m := range all {
		has[m.outcome] = true
	}
	switch {
	case has[outcomeInterrupted]:
		return exitInterrupted
	case has[outcomeFailed]:
		return exitFailed
	case has[outcomeOpen]:
		return exitFound
	default:
		return caddy.ExitCodeSuccess
	}
}
