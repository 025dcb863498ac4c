package upstreampool

import (
	"sync/atomic"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/replay"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A pool is the connections of one key.
type pool struct {
	*connpool.Pool
	*record
	core  *core
	host  string // its name, if it has one that may be followed
	doubt atomic.Pointer[doubt]
}

// Opened implements [connpool.Events].
func (p *pool) Opened() {
	p.requests.opened.Inc()
	p.count(func(s *stats) { s.opened++ })
	p.follow()
}

// DialFailed implements [connpool.Events].
func (p *pool) DialFailed(error) {
	p.requests.dialErrors.Inc()
	p.count(func(s *stats) { s.dialErrors++ })
}

// Hedged implements [connpool.Events].
func (p *pool) Hedged() { p.requests.hedged.Inc() }

// Closed implements [connpool.Events].
func (p *pool) Closed(reason connpool.CloseReason) {
	if reason == connpool.CloseUnacked || reason == connpool.ClosePing || reason == connpool.CloseSilent {
		p.core.log().Warn("upstream went silent", zap.String("upstream", p.name), zap.String("reason", string(reason)))
	}
	countClosed(p.label, reason)
	p.count(func(s *stats) { s.closes[reason]++ })
}

// SawClose implements [connpool.Events].
func (p *pool) SawClose(idle time.Duration, sensor bool) {
	if ce := p.core.log().Check(zapcore.DebugLevel, "upstream closed idle connection"); ce != nil {
		ce.Write(zap.String("upstream", p.name), zap.Duration("idle", idle), zap.Bool("sensor", sensor))
	}
}

// Waited implements [connpool.Events].
func (p *pool) Waited(d time.Duration) { countWaited(p.label, d) }

// Refused implements [connpool.Events].
func (p *pool) Refused(err error) {
	if err == connpool.ErrQueueFull {
		p.requests.refusedQueue.Inc()
	} else {
		p.requests.refusedTimeout.Inc()
	}
	p.count(func(s *stats) { s.refused++ })
}

// replayed counts a replay.
func (p *pool) replayed(reason replay.Reason) {
	countReplayed(p.label, reason)
	p.count(func(s *stats) { s.replays[reason]++ })
}

// countRace counts a request that met a connection as it was being closed.
func (p *pool) countRace(replayed bool) {
	if replayed {
		p.requests.raceReplayed.Inc()
	} else {
		p.requests.raceFailed.Inc()
	}
	p.count(func(s *stats) { s.races++ })
}
