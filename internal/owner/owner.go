// Package owner has client connections as owners of what is kept for them alone. The
// end of an [Owner] is told to each [Keeper] that keeps something for it. A [Login] is
// how far one has come with authenticating what it has.
package owner

import (
	"sync"
	"sync/atomic"
)

// An Owner stands for a client connection. The zero value is ready for use.
type Owner struct {
	ended atomic.Bool

	mu      sync.Mutex // a lock that is taken last
	keepers map[Keeper]struct{}
}

// A Keeper keeps something for owners.
type Keeper interface {
	// Disown tells a keeper that an owner has ended, after KeptBy. It may have let
	// go of what it kept by then.
	Disown(*Owner)
}

// End tells that there are no more requests of the owner than those under way. Keepers
// are told before it returns.
func (o *Owner) End() {
	o.mu.Lock()
	o.ended.Store(true)
	keepers := o.keepers
	o.keepers = nil
	o.mu.Unlock()
	for k := range keepers {
		k.Disown(o)
	}
}

// Ended tells whether the owner has ended.
func (o *Owner) Ended() bool { return o.ended.Load() }

// Kept tells whether anybody keeps something.
func (o *Owner) Kept() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.keepers) > 0
}

// KeptBy notes that k keeps something. If the owner has ended, k is not told any more.
func (o *Owner) KeptBy(k Keeper) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.ended.Load():
	case o.keepers == nil:
		o.keepers = map[Keeper]struct{}{k: {}}
	default:
		o.keepers[k] = struct{}{}
	}
}

// LeftBy notes that k keeps nothing any more.
func (o *Owner) LeftBy(k Keeper) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.keepers, k)
}
