package command

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// An outcome is what became of one URL. The values are part of the JSON output.
type outcome string

const (
	outcomeClosed      outcome = "closed"       // the server closed the idle connection
	outcomeOpen        outcome = "open"         // it did not within --max-wait
	outcomeNotReusable outcome = "not_reusable" // it keeps no connection at all
	outcomeFailed      outcome = "failed"       // it could not be measured
	outcomeInterrupted outcome = "interrupted"
)

// Exit codes of both commands beside 0, in the order in which they win.
const (
	exitUsage       = caddy.ExitCodeFailedStartup
	exitInterrupted = caddy.ExitCodeForceQuit
	exitFailed      = 4 // something could not be measured
	exitFound       = 3 // something is not as it should be
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
	m.answer, err = s.get(t, true)
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
