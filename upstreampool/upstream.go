package upstreampool

import (
	"container/list"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/memory"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

// maxUpstreams bounds the learned state. Clients can choose addresses through
// placeholders, so it must not grow with what they send.
const maxUpstreams = 4096

// mostSpared is how many upstreams with connections are spared at most for one
// that has to go.
const mostSpared = 100

// upstreamKey is what learned state belongs to: what closes a connection is
// the server at an address, or the proxy in front of it, whatever the SNI.
type upstreamKey struct {
	scheme, network, addr, proxy string
}

// name is how the upstream is called in state, log and metrics: by its address, as in
// the configuration.
func (k upstreamKey) name() string {
	if k.network == "tcp" {
		return k.addr
	}
	return k.network + "/" + k.addr
}

// An upstream is what is known about one server, apart from its connections.
// A pool holds on to its upstream for as long as it has connections.
type upstream struct {
	key   upstreamKey
	label string // in metrics; "other" where there are too many
	memory.Upstream
	versions replay.Versions // of HTTP/1 that it answers in
	pools    atomic.Int32    // that have connections to it
}

// newUpstream makes the memory of one upstream. Learners report with a pool locked.
func (c *core) newUpstream(k upstreamKey) *upstream {
	learner := func(h2 bool) *idletime.Learner {
		return idletime.NewLearner(c.cfg.Idle, func(e idletime.Event) { go c.learned(k, h2, e) })
	}
	u := &upstream{key: k, label: labels.take(k.name()), Upstream: memory.Upstream{H1: learner(false), H2: learner(true)}}
	c.remember(u)
	return u
}

// learned logs what was found out about an upstream.
func (c *core) learned(k upstreamKey, h2 bool, e idletime.Event) {
	fields := []zap.Field{
		zap.String("upstream", k.addr),
		zap.Bool("h2", h2),
		zap.Duration("keep_alive", e.KeepAlive),
	}
	switch {
	case e.Broken > 0:
		c.log().Warn("upstream closes idle connections earlier than it should", append(fields,
			zap.Duration("promised", e.Broken), zap.String("promise", string(e.Source)))...)
	case e.Outlived:
		c.log().Info("upstream keeps idle connections open at least this long", fields...)
	default:
		c.log().Info("upstream closes idle connections after this time", append(fields,
			zap.Duration("max_idle_time", c.cfg.Idle.MaxIdle))...)
	}
}

// upstreams is an LRU of what is known.
type upstreams struct {
	make func(upstreamKey) *upstream

	mu    sync.Mutex
	byKey map[upstreamKey]*list.Element
	order list.List // of *upstream, most recently used first
}

// get returns the upstream with the given key, made on first use.
func (us *upstreams) get(k upstreamKey) *upstream {
	us.mu.Lock()
	defer us.mu.Unlock()
	if e := us.byKey[k]; e != nil {
		us.order.MoveToFront(e)
		return e.Value.(*upstream)
	}
	if us.byKey == nil {
		us.byKey = make(map[upstreamKey]*list.Element)
	}
	if us.order.Len() >= maxUpstreams {
		us.forgetOne()
	}
	u := us.make(k)
	us.byKey[k] = us.order.PushFront(u)
	return u
}

// forgetOne forgets the upstream that was asked for least lately, and has no
// connections: one in steady use is not asked for.
func (us *upstreams) forgetOne() {
	oldest := us.order.Back()
	for n := 0; n < mostSpared && oldest.Value.(*upstream).pools.Load() > 0; n++ {
		us.order.MoveToFront(oldest)
		oldest = us.order.Back()
	}
	us.order.Remove(oldest)
	delete(us.byKey, oldest.Value.(*upstream).key)
	oldest.Value.(*upstream).forgotten()
}

// forgotten gives up what u holds: nobody will learn about it any more. What is
// stored of it stays.
func (u *upstream) forgotten() {
	labels.giveBack(u.label)
	for _, h2 := range []bool{false, true} {
		remembered.Forget(u.Learner(h2))
	}
}

// forget gives up what is known.
func (us *upstreams) forget() {
	us.mu.Lock()
	defer us.mu.Unlock()
	for _, e := range us.byKey {
		e.Value.(*upstream).forgotten()
	}
}
