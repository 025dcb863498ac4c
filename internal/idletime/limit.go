package idletime

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
	SourceRemembered Source = "remembered" // learned by another process
	SourceAssumed    Source = "assumed"    // the safe default, nothing is known
)

// promised tells whether somebody said so, rather than that it was observed.
func (s Source) promised() bool { return s == SourceConfigured || s == SourceAnnounced }

// A Limit is how long a connection may stay idle and still be used, and why.
type Limit struct {
	// How long a connection may have been idle. Zero: connections to this
	// upstream are not reused, its timeout is too short to be safe.
	Value time.Duration
	// After how long the upstream is taken to close an idle connection.
	KeepAlive time.Duration
	// Where KeepAlive comes from.
	Source Source
	// How far below KeepAlive the pool stays, or below EarlyClose where that is
	// what determines Value.
	Margin time.Duration
	// How old a connection may be for a request that cannot be replayed; at
	// most Value.
	Unreplayable time.Duration

	// The idle age at which a connection ended that caps Value, with
	// BoundEarlyClose and BoundSilence.
	EarlyClose time.Duration
	// What determined Value.
	Bound Bound
	// Whether races raised Margin.
	Raised bool
}

// A Bound is what determined the value of a limit.
type Bound uint8

const (
	BoundKeepAlive   Bound = iota // K minus the margin
	BoundMaxIdle                  // max_idle_time
	BoundReadTimeout              // our own read_timeout
	BoundEarlyClose               // an unconfirmed close
	BoundSilence                  // a connection that was dead without a close
	BoundUnused                   // the connection has not carried a request
	BoundTooShort                 // K is too short for any reuse
	BoundAtOnce                   // nearly all connections end right after their response
)

// Config is what the configuration says about idle connections. Zero means unset,
// but for MaxIdle.
type Config struct {
	MaxIdle     time.Duration // max_idle_time
	ReadTimeout time.Duration // read_timeout of the transport
	KeepAlive   time.Duration // upstream_keep_alive
	Margin      time.Duration // margin
}

// Ceiling is the largest age a connection can usefully reach: an upstream that
// keeps a connection for longer is as good as one that keeps it for ever.
func (c Config) Ceiling() time.Duration {
	if c.ReadTimeout > 0 {
		return min(c.MaxIdle, belowReadTimeout(c.ReadTimeout))
	}
	return c.MaxIdle
}

// knowledge is all that the idle limit is computed from.
type knowledge struct {
	Config
	announced  Optional
	learned    Optional
	remembered Optional
	early      early         // what caps the limit, unconfirmed
	seenOpen   time.Duration // an age at which enough connections were seen open
	noTimeout  bool          // closes show that there is no idle timeout
	atOnce     bool          // connections end right after their first response

	connect  time.Duration // a round trip, by TCP
	response time.Duration // a round trip and some work, by requests
	races    float64       // factor by which races raised the margin; below 1 means 1
}

// keepAlive returns K, when the upstream closes an idle connection, by the
// most trusted source. What was observed twice beats any word that promises
// more: by half of the margin, since neither timers nor clocks are exact.
func (k *knowledge) keepAlive() (time.Duration, Source) {
	learned, known := k.learned.Get()
	value, source := k.promise()
	switch {
	case known && (!source.promised() || learned < value-k.margin(value)/2):
		return learned, SourceLearned
	case source == SourceAssumed && k.noTimeout:
		return max(value, k.seenOpen), source
	}
	return value, source
}

// promise returns what K is if nothing was learned by this process.
func (k *knowledge) promise() (time.Duration, Source) {
	if k.KeepAlive > 0 {
		return k.KeepAlive, SourceConfigured
	}
	if d, ok := k.announced.Get(); ok {
		return d, SourceAnnounced
	}
	if d, ok := k.remembered.Get(); ok {
		return d, SourceRemembered
	}
	return safeKeepAlive, SourceAssumed
}

// margin returns how far below keepAlive to stay. A request needs half a round
// trip to arrive and the upstream's timer may fire early; K/20 covers coarse
// timers. Races raise it up to K/2.
//
// Response times show a long way behind a proxy nearby, which TCP does not. But
// they also hold the upstream's work, and one that always takes seconds to
// answer must not lose its connections for that: they count up to K/8.
func (k *knowledge) margin(keepAlive time.Duration) time.Duration {
	if k.Margin > 0 {
		return k.Margin
	}
	return k.adaptive(keepAlive)
}

// adaptive returns the margin where the configuration sets none.
func (k *knowledge) adaptive(keepAlive time.Duration) time.Duration {
	roundTrip := max(k.connect, min(k.response, keepAlive/8))
	base := max(2*roundTrip+100*time.Millisecond, keepAlive/20)
	if k.races <= 1 {
		return base
	}
	raised := min(time.Duration(float64(base)*k.races), keepAlive/2)
	return max(base, raised)
}

// limit computes the idle limit of a connection that has carried a request.
func (k *knowledge) limit() (l Limit) {
	k.bound(&l)
	l.Unreplayable = l.Value
	if l.Source == SourceAssumed {
		l.Unreplayable = min(l.Value, max(freshEnough, k.seenOpen-l.Margin))
	}
	return l
}

// bound computes min(max_idle_time, K - margin), and below that what our own
// read_timeout and an unconfirmed early close allow.
func (k *knowledge) bound(l *Limit) {
	l.KeepAlive, l.Source = k.keepAlive()
	l.Margin = k.margin(l.KeepAlive)
	l.Raised = k.Margin == 0 && k.races > 1
	if k.atOnce {
		l.Bound = BoundAtOnce
		return
	}
	if l.KeepAlive < 2*l.Margin {
		l.Bound = BoundTooShort
		return
	}
	l.Value = l.KeepAlive - l.Margin
	if l.Value > k.MaxIdle {
		l.Value, l.Bound = k.MaxIdle, BoundMaxIdle
	}
	// Our own timeout closes the connection just like the upstream would.
	if k.ReadTimeout > 0 && l.Value > belowReadTimeout(k.ReadTimeout) {
		l.Value, l.Bound = belowReadTimeout(k.ReadTimeout), BoundReadTimeout
	}
	if e := k.early; e.idle > 0 {
		margin := k.margin(e.idle)
		if c := max(e.idle-margin, leastCap); c < l.Value {
			l.Value, l.Bound, l.EarlyClose, l.Margin = c, e.bound, e.idle, margin
		}
	}
}

// unusedLimit computes the idle limit of a connection that has carried no request.
// Keep-alive begins with the first response. Until then upstreams wait for a
// request, by timeouts of which nobody tells us and often shorter ones.
func (k *knowledge) unusedLimit() Limit {
	l := k.limit()
	if most := max(safeKeepAlive-k.adaptive(safeKeepAlive), 0); most < l.Value {
		l.Value, l.Bound = most, BoundUnused
		l.Unreplayable = min(l.Unreplayable, most)
	}
	return l
}

// DefaultMaxIdle is max_idle_time where it is not set.
const DefaultMaxIdle = 2 * time.Minute

// DefaultLimit is the limit of a pool without settings towards an upstream that
// closes an idle connection after keepAlive, which may be 0, and that is
// roundTrip away.
func DefaultLimit(keepAlive, roundTrip time.Duration) Limit {
	k := knowledge{Config: Config{MaxIdle: DefaultMaxIdle}, announced: Known(keepAlive), connect: roundTrip}
	return k.limit()
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
		SourceRemembered: "remembered timeout ",
		SourceAssumed:    "assumed timeout ",
	}[l.Source] + seconds(l.KeepAlive)
	margin := "margin " + seconds(l.Margin)
	if l.Raised {
		margin += " (raised by races)"
	}
	switch l.Bound {
	case BoundTooShort:
		return fmt.Sprintf("not reused: %s is less than twice the %s", from, margin)
	case BoundAtOnce:
		return "not reused: the upstream closes nearly all connections right after their first response"
	case BoundMaxIdle:
		return fmt.Sprintf("idle limit %s: max_idle_time, below %s minus %s", seconds(l.Value), from, margin)
	case BoundReadTimeout:
		return fmt.Sprintf("idle limit %s: read_timeout, below %s minus %s", seconds(l.Value), from, margin)
	case BoundEarlyClose:
		return fmt.Sprintf("idle limit %s: unconfirmed close after %s minus %s, despite %s", seconds(l.Value), seconds(l.EarlyClose), margin, from)
	case BoundSilence:
		return fmt.Sprintf("idle limit %s: dead without a close after %s minus %s, despite %s", seconds(l.Value), seconds(l.EarlyClose), margin, from)
	case BoundUnused:
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
