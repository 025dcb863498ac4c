package resolve

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxNames is how many names are followed at once. Clients can choose names
	// through placeholders.
	maxNames = 1000

	// maxLookups is how many lookups are under way at once.
	maxLookups = 8

	// lookupTimeout is how long a lookup may take.
	lookupTimeout = 5 * time.Second
)

// A Follower looks names up again and again, as long as anyone cares.
type Follower struct {
	interval time.Duration
	lookup   func(ctx context.Context, host string) ([]netip.Addr, error)
	apply    func(host string, history *History) (more bool)

	ctx    context.Context
	cancel context.CancelFunc
	places chan struct{} // one for each lookup under way

	mu    sync.Mutex
	names map[string]*followed
}

// A followed name is looked up when its timer runs.
type followed struct {
	timer   *time.Timer
	history History
	wanted  bool // by a call of Follow since its last lookup
}

// NewFollower returns a Follower that calls lookup at about each interval, and
// apply after each answer. A lookup that fails changes nothing. apply returns
// whether there is any reason to go on; without one the name and its history are
// forgotten, until the next call of Follow.
func NewFollower(
	interval time.Duration,
	lookup func(ctx context.Context, host string) ([]netip.Addr, error),
	apply func(host string, history *History) (more bool),
) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	return &Follower{
		interval: interval, lookup: lookup, apply: apply,
		ctx: ctx, cancel: cancel,
		places: make(chan struct{}, maxLookups),
		names:  make(map[string]*followed),
	}
}

// Follow has a name looked up, the first time an interval from now. It reports
// false if that will not happen: the name is an address, too many names are
// followed, or the Follower has stopped. A name that is followed already stays so.
func (f *Follower) Follow(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if name := f.names[host]; name != nil {
		name.wanted = true
		return true
	}
	if len(f.names) >= maxNames || f.ctx.Err() != nil {
		return false
	}
	name := new(followed)
	name.timer = time.AfterFunc(f.pause(), func() { f.look(host, name) })
	f.names[host] = name
	return true
}

// Stop ends it all. Lookups under way are canceled, and apply is not called any
// more, but for calls that have begun.
func (f *Follower) Stop() {
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	for host, name := range f.names {
		name.timer.Stop()
		delete(f.names, host)
	}
}

// look looks a name up once, and arms its timer again.
func (f *Follower) look(host string, name *followed) {
	select {
	case f.places <- struct{}{}:
	case <-f.ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(f.ctx, lookupTimeout)
	answer, err := f.lookup(ctx, host)
	cancel()
	<-f.places
	if f.ctx.Err() != nil {
		return
	}
	if err == nil {
		name.history.Add(answer)
	}
	f.mu.Lock()
	name.wanted = false
	f.mu.Unlock()
	more := f.apply(host, &name.history)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.names[host] == nil: // stopped
	case more || name.wanted: // whoever called Follow meanwhile may not have been seen by apply
		name.timer.Reset(f.pause())
	default:
		delete(f.names, host)
	}
}

// pause is about the interval: names that were first used together are not looked
// up together for ever.
func (f *Follower) pause() time.Duration {
	tenth := f.interval / 10
	return f.interval - tenth + rand.N(2*tenth+1)
}
