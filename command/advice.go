package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// settings are what a Caddyfile should say about an upstream.
type settings struct {
	known     bool          // the upstream's timeout is known
	keepAlive time.Duration // that timeout
	limit     idletime.Limit
	pool      string // the lines with transport upstreampool; empty: nothing needs to be set
	stock     string // the lines with transport http
}

// settings turns a measurement into settings. The timeout is what was announced
// or what happened, whichever is earlier.
func (m measurement) settings() (s settings) {
	if m.outcome == outcomeNotReusable {
		return s
	}
	if len(m.seen.events) > 0 {
		s.keepAlive, s.known = settle(m.seen.events[0].after), true
	}
	if announced, ok := m.announced(); ok && (!s.known || announced < s.keepAlive) {
		s.keepAlive, s.known = announced, true
	}
	if !s.known {
		return s
	}
	s.limit = idletime.DefaultLimit(s.keepAlive, m.roundTrip)
	switch {
	case s.limit.Value == 0:
		s.pool = m.caddyfile("upstreampool", "keepalive off")
		s.stock = m.caddyfile("http", "keepalive off")
	case !defaultsFit(s.limit):
		s.pool = m.caddyfile("upstreampool", "upstream_keep_alive "+duration(s.keepAlive))
		s.stock = m.caddyfile("http", "keepalive "+duration(s.limit.Value.Truncate(10*time.Millisecond)))
	}
	return s
}

// defaultsFit tells whether the limit is the longest time that a connection may be
// idle by default, 2 minutes in both transports, and not the upstream's timeout.
func defaultsFit(l idletime.Limit) bool { return l.Value > 0 && l.Value < l.KeepAlive-l.Margin }

func (m measurement) caddyfile(transport, line string) string {
	return fmt.Sprintf("reverse_proxy %s {\n\ttransport %s {\n\t\t%s\n\t}\n}\n", m.target.upstream(), transport, line)
}

// settle returns the timeout that a close after d comes from: most are of whole
// seconds, and timers are late or coarse by some milliseconds.
func settle(d time.Duration) time.Duration {
	if whole := d.Round(time.Second); whole > 0 && (d-whole).Abs() <= 50*time.Millisecond {
		return whole
	}
	return d.Truncate(100 * time.Millisecond)
}

// duration writes d as a Caddyfile does: "5s", "1m15s", "4.75s".
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// warnings are what an operator should look into.
func (m measurement) warnings() []string {
	list := []string{}
	warn := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	announced, ok := m.announced()
	if len(m.seen.events) > 0 && ok && settle(m.seen.events[0].after) < announced {
		warn("it announces %s but ends the connection after %s: a proxy that believes it will see failed requests",
			duration(announced), seconds(m.seen.events[0].after))
	}
	if field := m.keepAliveField(); field != "" && !ok && m.answer.last == "" {
		warn("its field Keep-Alive: %s counts for nothing, since it has no valid timeout or Connection does not name it", field)
	}
	if m.seen.surplus > 0 {
		warn("it sent %d bytes that answer no request (%q): a proxy that does not notice takes them for the next response",
			m.seen.surplus, m.seen.sample)
	}
	return list
}

// seconds writes a measured duration.
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
