package command

import (
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// A keepAliveJSON is what --json writes about one URL. What is unknown is left
// out.
type keepAliveJSON struct {
	URL         string         `json:"url"`
	Outcome     outcome        `json:"outcome"`
	Protocol    string         `json:"protocol,omitempty"`
	Status      int            `json:"status,omitempty"`
	RoundTrip   *float64       `json:"round_trip_seconds,omitempty"`
	Announced   *announcedJSON `json:"announced,omitempty"`
	Idle        *float64       `json:"idle_seconds,omitempty"`
	Events      []eventJSON    `json:"events"`
	Surplus     int            `json:"surplus_bytes"`
	NotReusable string         `json:"not_reusable_because,omitempty"`
	KeepAlive   *float64       `json:"upstream_keep_alive_seconds,omitempty"`
	Margin      *float64       `json:"margin_seconds,omitempty"`
	IdleLimit   *float64       `json:"idle_limit_seconds,omitempty"`
	Caddyfile   *caddyfileJSON `json:"caddyfile,omitempty"`
	Warnings    []string       `json:"warnings"`
	Error       string         `json:"error,omitempty"`
}

type announcedJSON struct {
	Field       string   `json:"keep_alive"`
	Timeout     *float64 `json:"timeout_seconds,omitempty"`
	MaxRequests *int     `json:"max_requests,omitempty"`
}

type eventJSON struct {
	Event string  `json:"event"`
	After float64 `json:"after_seconds"`
}

type caddyfileJSON struct {
	UpstreamPool string `json:"upstreampool"`
	HTTP         string `json:"http"`
}

// jsonSeconds is d in seconds, to the millisecond.
func jsonSeconds(d time.Duration) *float64 {
	s := math.Round(d.Seconds()*1000) / 1000
	return &s
}

var maxParameter = regexp.MustCompile(`(?i)(?:^|[,\s])max\s*=\s*"?([0-9]{1,9})`)

func (m measurement) json() keepAliveJSON {
	j := keepAliveJSON{
		URL: m.target.text, Outcome: m.outcome, Protocol: m.answer.protocol, Status: m.answer.status,
		Events: []eventJSON{}, Surplus: m.seen.surplus, NotReusable: m.answer.last, Warnings: m.warnings(),
	}
	if m.err != nil {
		j.Error = m.err.Error()
	}
	if m.answer.status == 0 {
		return j
	}
	j.RoundTrip = jsonSeconds(m.roundTrip)
	if m.outcome != outcomeNotReusable {
		j.Idle = jsonSeconds(m.idle)
	}
	if field := m.keepAliveField(); field != "" {
		j.Announced = &announcedJSON{Field: field}
		if timeout, ok := m.announced(); ok {
			j.Announced.Timeout = jsonSeconds(timeout)
		}
		if match := maxParameter.FindStringSubmatch(field); match != nil {
			n, _ := strconv.Atoi(match[1])
			j.Announced.MaxRequests = &n
		}
	}
	for _, e := range m.seen.events {
		j.Events = append(j.Events, eventJSON{e.what, *jsonSeconds(e.after)})
	}
	if s := m.settings(); s.known {
		j.KeepAlive, j.Margin, j.IdleLimit = jsonSeconds(s.keepAlive), jsonSeconds(s.limit.Margin), jsonSeconds(s.limit.Value)
		if s.pool != "" {
			j.Caddyfile = &caddyfileJSON{s.pool, s.stock}
		}
	}
	return j
}

// write writes the measurement for people.
func (m measurement) write(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n", m.target.text, m.headline())
	if m.answer.status == 0 {
		return
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("protocol", "%s, answered %s", m.answer.protocol, m.answer)
	if field := m.keepAliveField(); field != "" {
		line("announced", "Keep-Alive: %s", printable(field))
	} else {
		line("announced", "nothing")
	}
	for _, e := range m.seen.events {
		line("seen", "%s after %s", e.what, seconds(e.after))
	}
	for _, text := range m.warnings() {
		line("warning", "%s", printable(text))
	}
	if text := m.advice(); text != "" {
		fmt.Fprintf(w, "\n%s", text)
	}
}

// headline says what was found, in a few words.
func (m measurement) headline() string {
	switch {
	case m.outcome == outcomeFailed:
		return "could not be measured: " + m.err.Error()
	case m.outcome == outcomeInterrupted && m.answer.status == 0:
		return "interrupted before it answered"
	case m.outcome == outcomeInterrupted:
		return fmt.Sprintf("idle for %s when interrupted, not closed", seconds(m.idle))
	case m.outcome == outcomeOpen:
		return fmt.Sprintf("did not close an idle connection within %s", duration(m.maxWait))
	case m.outcome == outcomeNotReusable:
		return fmt.Sprintf("keeps no connection (%s)", m.answer.last)
	default:
		return fmt.Sprintf("closes an idle connection after %s", seconds(m.closedAfter()))
	}
}

// closedAfter is when the server began to close the connection.
func (m measurement) closedAfter() time.Duration {
	for _, e := range m.seen.events {
		if e.what != surplusBytes {
			return e.after
		}
	}
	return 0
}

// advice is what to write into a Caddyfile, with reasons.
func (m measurement) advice() string {
	s := m.settings()
	switch {
	case m.outcome == outcomeNotReusable:
		return "  Nothing can be set: every request gets a connection of its own.\n"
	case !s.known && m.outcome == outcomeOpen && defaultsFit(idletime.DefaultLimit(m.maxWait, m.roundTrip)):
		return "  Nothing needs to be set: without settings, both transports use no connection that was idle for 2 minutes.\n"
	case !s.known && m.outcome == outcomeOpen:
		return fmt.Sprintf("  Nothing is known but that. A --max-wait of %s shows whether anything needs to be set.\n", duration(defaultMaxWait))
	case !s.known:
		return ""
	case s.limit.Value == 0:
		return fmt.Sprintf("  A connection that may end after %s (margin %s) cannot be reused safely:\n\n%s\n  or with Caddy's own transport:\n\n%s",
			duration(s.keepAlive), duration(s.limit.Margin.Round(time.Millisecond)), indent(s.pool), indent(s.stock))
	case s.pool == "":
		return "  Nothing needs to be set: without settings, both transports use no connection that was idle for 2 minutes.\n"
	default:
		return fmt.Sprintf("  upstreampool finds this out by itself. To tell it beforehand:\n\n%s\n  or with Caddy's own transport, %s minus a margin of %s:\n\n%s",
			indent(s.pool), duration(s.keepAlive), duration(s.limit.Margin.Round(time.Millisecond)), indent(s.stock))
	}
}

func indent(text string) string {
	return "\t" + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n\t") + "\n"
}

// printable is text from a server without what would steer a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
