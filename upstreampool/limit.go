package upstreampool

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

const (
	// safeKeepAlive stands in while nobody knows when the upstream closes an
	// idle connection: the common defaults are 5 s and above.
	safeKeepAlive = 4 * time.Second

	// leastCap is how far a single early close can push the idle limit down.
	leastCap = 500 * time.Millisecond

	// freshEnough is how long a connection may have been idle for a request
	// that cannot be replayed, until the upstream's timeout is known.
	freshEnough = 500 * time.Millisecond
)

// Source says where a keep-alive value comes from. The values are labels of
// metrics and part of the admin API.
type Source string

const (
	SourceConfigured Source = "configured" // upstream_keep_alive
	SourceAnnounced  Source = "announced"  // a Keep-Alive field
	SourceLearned    Source = "learned"    // observed and confirmed closes
	SourceAssumed    Source = "assumed"    // the safe default, nothing is known
)

// A Limit is how long a connection may stay idle and still be used, and why.
type Limit struct {
	// How long a connection may have been idle. Zero: connections to this
	// upstream are not reused, its timeout is too short to be safe.
	Value time.Duration
	// After how long the upstream is taken to close an idle connection.
	KeepAlive time.Duration
	// Where KeepAlive comes from.
	Source Source
	// How far below KeepAlive the pool stays.
	Margin time.Duration

	bound  bound
	age    time.Duration // of the unconfirmed close, with boundEarlyClose
	raised bool          // the margin was raised by races
}

// A bound is what determined the value of a limit.
type bound uint8

const (
	boundKeepAlive bound = iota
	boundMaxIdle
	boundReadTimeout
	boundEarlyClose
	boundUnused
	boundTooShort
)

// knowledge is all that the idle limit is computed from. Zero durations mean
// "unset" unless there is a Has field.
type knowledge struct {
	MaxIdle     time.Duration // max_idle_time
	ReadTimeout time.Duration // read_timeout of the transport
	Configured  time.Duration // upstream_keep_alive

	Announced    time.Duration
	HasAnnounced bool
	Learned      time.Duration
	EarlyClose   time.Duration // age of an early close that nothing has confirmed yet
	Unused       bool          // for a connection that has not carried a request yet

	FixedMargin time.Duration // margin
	Connect     time.Duration // a round trip, by TCP
	Response    time.Duration // a round trip and some work, by requests
	Races       float64       // factor by which races raised the margin; below 1 means 1
}

// keepAlive returns K, when the upstream closes an idle connection, by the
// most trusted source. What was observed twice beats any word that promises
// more: by half of the margin, since neither timers nor clocks are exact.
func (k knowledge) keepAlive() (time.Duration, Source) {
	var value time.Duration
	var source Source
	switch {
	case k.Configured > 0:
		value, source = k.Configured, SourceConfigured
	case k.HasAnnounced:
		value, source = k.Announced, SourceAnnounced
	case k.Learned > 0:
		return k.Learned, SourceLearned
	default:
		return safeKeepAlive, SourceAssumed
	}
	if k.Learned > 0 && k.Learned < value-k.margin(value)/2 {
		return k.Learned, SourceLearned
	}
	return value, source
}

// margin returns how far below keepAlive to stay. A request needs half a round
// trip to arrive and the upstream's timer may fire early; K/20 covers coarse
// timers. Races raise it up to K/2.
//
// Response times show a long way behind a proxy nearby, which TCP does not. But
// they also hold the upstream's work, and one that always takes seconds to
// answer must not lose its connections for that: they count up to K/8.
func (k knowledge) margin(keepAlive time.Duration) time.Duration {
	if k.FixedMargin > 0 {
		return k.FixedMargin
	}
	roundTrip := max(k.Connect, min(k.Response, keepAlive/8))
	base := max(2*roundTrip+100*time.Millisecond, keepAlive/20)
	if k.Races <= 1 {
		return base
	}
	raised := min(time.Duration(float64(base)*k.Races), keepAlive/2)
	return max(base, raised)
}

// limit computes the idle limit: min(max_idle_time, K - margin), and below
// that what our own read_timeout and an unconfirmed early close allow.
func (k knowledge) limit() Limit {
	var l Limit
	l.KeepAlive, l.Source = k.keepAlive()
	l.Margin = k.margin(l.KeepAlive)
	l.raised = k.FixedMargin == 0 && k.Races > 1
	if l.KeepAlive < 2*l.Margin {
		l.bound = boundTooShort
		return l
	}
	l.Value = l.KeepAlive - l.Margin
	if l.Value > k.MaxIdle {
		l.Value, l.bound = k.MaxIdle, boundMaxIdle
	}
	// Our own timeout closes the connection just like the upstream would.
	if k.ReadTimeout > 0 && l.Value > belowReadTimeout(k.ReadTimeout) {
		l.Value, l.bound = belowReadTimeout(k.ReadTimeout), boundReadTimeout
	}
	if k.EarlyClose > 0 {
		if c := max(k.EarlyClose-l.Margin, leastCap); c < l.Value {
			l.Value, l.bound, l.age = c, boundEarlyClose, k.EarlyClose
		}
	}
	if k.Unused {
		// Keep-alive begins with the first response. Until then upstreams wait for
		// a request, by timeouts of which nobody tells us and often shorter ones.
		k.FixedMargin = 0
		if c := max(safeKeepAlive-k.margin(safeKeepAlive), 0); c < l.Value {
			l.Value, l.bound = c, boundUnused
		}
	}
	return l
}

// IdleLimit is the limit of a pool without settings towards an upstream that
// closes an idle connection after keepAlive, which may be 0, and that is
// roundTrip away.
func IdleLimit(keepAlive, roundTrip time.Duration) Limit {
	return knowledge{MaxIdle: defaultMaxIdleTime, Announced: keepAlive, HasAnnounced: true, Connect: roundTrip}.limit()
}

// ceiling is the largest age a connection can usefully reach: an upstream that
// keeps a connection for longer is as good as one that keeps it for ever.
func (k knowledge) ceiling() time.Duration {
	if k.ReadTimeout > 0 {
		return min(k.MaxIdle, belowReadTimeout(k.ReadTimeout))
	}
	return k.MaxIdle
}

func belowReadTimeout(d time.Duration) time.Duration {
	return d - d/20
}

// String explains the limit in one line.
func (l Limit) String() string {
	from := map[Source]string{
		SourceConfigured: "configured upstream_keep_alive ",
		SourceAnnounced:  "announced timeout ",
		SourceLearned:    "learned timeout ",
		SourceAssumed:    "assumed timeout ",
	}[l.Source] + seconds(l.KeepAlive)
	margin := "margin " + seconds(l.Margin)
	if l.raised {
		margin += " (raised by races)"
	}
	switch l.bound {
	case boundTooShort:
		return fmt.Sprintf("not reused: %s is less than twice the %s", from, margin)
	case boundMaxIdle:
		return fmt.Sprintf("idle limit %s: max_idle_time, below %s minus %s", seconds(l.Value), from, margin)
	case boundReadTimeout:
		return fmt.Sprintf("idle limit %s: read_timeout, below %s minus %s", seconds(l.Value), from, margin)
	case boundEarlyClose:
		return fmt.Sprintf("idle limit %s: unconfirmed close after %s minus %s, despite %s", seconds(l.Value), seconds(l.age), margin, from)
	case boundUnused:
		return fmt.Sprintf("idle limit %s: never used, below %s minus %s", seconds(l.Value), from, margin)
	default:
		return fmt.Sprintf("idle limit %s: %s minus %s", seconds(l.Value), from, margin)
	}
}

// seconds prints d as people write it: "250 ms", "4.75 s", "2 m".
func seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d m", d/time.Minute)
	default:
		hundredths := math.Round(d.Seconds() * 100)
		return strconv.FormatFloat(hundredths/100, 'f', -1, 64) + " s"
	}
}
