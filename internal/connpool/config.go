package connpool

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/linked"
)

// A Config is the checked configuration of the pools of a [Group], all defaults
// filled in. Zero means unlimited where nothing else is said.
type Config struct {
	Idle           idletime.Config // max_idle_time, read_timeout, upstream_keep_alive, margin
	Reuse          bool            // connections carry more than one request
	MaxLifetime    time.Duration   // how long a connection is used at all
	Jitter         int             // percent of MaxLifetime
	MaxRequests    int             // that a connection carries; 1 without Reuse
	MaxConns       int             // of a pool
	MaxPending     int             // waiters of a full pool; zero: none
	AcquireTimeout time.Duration   // of a waiter of a full pool
	MinIdle        int             // that a pool keeps open; zero: none
	MaxIdle        int             // idle connections of all pools
	MaxIdlePerPool int
	ProbeInterval  time.Duration // the longest time between probes of TCP keep-alive; zero: there are none
	UnackedTimeout time.Duration // for how long the upstream may owe an acknowledgement; zero: for ever
	PingTimeout    time.Duration // after which net/http closes an HTTP/2 connection for a lost PING; zero: it sends none
}

// life returns the lifetime of a new connection: MaxLifetime, shortened by a
// random part of the jitter, so that connections opened together do not all end
// together.
func (c *Config) life() time.Duration {
	if c.MaxLifetime == 0 || c.Jitter == 0 {
		return c.MaxLifetime
	}
	return c.MaxLifetime - time.Duration(rand.Int64N(int64(c.MaxLifetime)/100*int64(c.Jitter)+1))
}

// A Group is what the pools of one transport have in common.
type Group struct {
	cfg      Config
	idle     *linked.Bounded[conn]
	retired  atomic.Bool
	renewals atomic.Int64
}

// NewGroup returns a Group for pools of one configuration.
func NewGroup(cfg Config) *Group {
	return &Group{cfg: cfg, idle: linked.NewBounded[conn](cfg.MaxIdle)}
}

// Config returns the configuration.
func (g *Group) Config() *Config { return &g.cfg }

// Idle returns how many idle connections all pools have.
func (g *Group) Idle() int { return g.idle.Len() }

// Retire has connections closed instead of becoming idle, but for pinned ones: their owners
// could not log in again. Requests go on.
func (g *Group) Retire() { g.retired.Store(true) }

// Renew tells that another configuration uses the pools from now on. It may not
// have all upstreams that the former one had, so a pool keeps no connections warm
// until its next request.
func (g *Group) Renew() { g.renewals.Add(1) }

// Events is told what happens, never with a lock held.
type Events interface {
	Opened()
	DialFailed(err error)
	Hedged() // a dial is started because those under way take long
	Closed(reason CloseReason)
	// SawClose tells that the upstream closed a connection that had been idle, or
	// a sensor.
	SawClose(idle time.Duration, sensor bool)
	Waited(d time.Duration)
	Refused(err error) // ErrQueueFull or ErrAcquireTimeout
}

// A CloseReason says why a connection was closed. The values are labels of
// metrics.
type CloseReason string

const (
	CloseIdleLimit   CloseReason = "idle_limit"       // idle for as long as is safe
	CloseUpstream    CloseReason = "upstream"         // the upstream closed it, without a request under way
	CloseRequested   CloseReason = "connection_close" // a Connection: close, or HTTP/1.0
	CloseFailed      CloseReason = "failed"           // during a request
	CloseSurplus     CloseReason = "surplus_bytes"    // the upstream sent what nobody asked for
	CloseMaxRequests CloseReason = "max_requests"
	CloseMaxLifetime CloseReason = "max_lifetime"
	CloseMaxIdle     CloseReason = "max_idle_conns"
	CloseNotNeeded   CloseReason = "not_needed" // more were idle than were lately in use
	CloseReadTimeout CloseReason = "read_timeout"
	CloseReplaced    CloseReason = "replaced" // to make room, for the upstream or under max_conns_per_host
	CloseSuspect     CloseReason = "suspect"  // its path seemed dead, or that of another one as old as this
	CloseUnacked     CloseReason = "unacked_timeout"
	ClosePing        CloseReason = "ping_timeout"
	CloseSilent      CloseReason = "silent"   // the kernel gave it up: nothing answered
	CloseDNS         CloseReason = "dns"      // DNS names its address no longer
	CloseDrained     CloseReason = "drained"  // its configuration is gone, or an operator asked for it
	CloseSensor      CloseReason = "sensor"   // a sensor that has seen enough
	CloseUpgraded    CloseReason = "upgraded" // it left the pool as another protocol
	ClosePinned      CloseReason = "pinned"   // its owner ended, sent no credentials, or needed another one
)
