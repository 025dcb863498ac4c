package authority

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// A cache keeps values by key. It is bounded, and safe for concurrent use
// without locks. A key has one bucket by its hash, and a bucket has room for a
// few keys: the newest displaces the oldest. However many keys clients make up,
// they can only displace others, which are then found again.
//
// A bucket never changes; a new one takes its place. So a reader sees whole
// buckets, and a key is never in one twice.
type cache[K comparable, V any] struct {
	seed    maphash.Seed
	buckets []atomic.Pointer[bucket[K, V]]
}

// bucketSize is how many keys a bucket has room for. In a cache that holds as
// many keys as it was made for, fewer than one in a hundred finds its bucket full.
const bucketSize = 8

type bucket[K comparable, V any] struct {
	keys   [bucketSize]K
	values [bucketSize]*V // newest first; nil ends the list
}

// newCache returns a cache for size keys. It never has more than four times as
// many.
func newCache[K comparable, V any](size int) *cache[K, V] {
	n := 1 << bits.Len(uint(max(size*2/bucketSize, 1)-1))
	return &cache[K, V]{seed: maphash.MakeSeed(), buckets: make([]atomic.Pointer[bucket[K, V]], n)}
}

// get returns the value for a key, or nil. It allocates nothing.
func (c *cache[K, V]) get(key K) *V {
	return c.bucket(key).Load().get(key)
}

// swap puts a new value in the place of old, which get returned. It returns
// false, and does nothing, if there is another one by now.
func (c *cache[K, V]) swap(key K, old, value *V) bool {
	at := c.bucket(key)
	for {
		b := at.Load()
		if b.get(key) != old {
			return false
		}
		if at.CompareAndSwap(b, b.with(key, value)) {
			return true
		}
	}
}

func (c *cache[K, V]) bucket(key K) *atomic.Pointer[bucket[K, V]] {
	return &c.buckets[maphash.Comparable(c.seed, key)&uint64(len(c.buckets)-1)]
}

func (b *bucket[K, V]) get(key K) *V {
	if b == nil {
		return nil
	}
	for i := range b.keys {
		if b.values[i] == nil {
			return nil
		}
		if b.keys[i] == key {
			return b.values[i]
		}
	}
	return nil
}

// with returns a bucket with a value for the key in front, and as many of the
// others as there is room for.
func (b *bucket[K, V]) with(key K, value *V) *bucket[K, V] {
	made := new(bucket[K, V])
	made.keys[0], made.values[0] = key, value
	if b == nil {
		return made
	}
	n := 1
	for i := range b.keys {
		if n < bucketSize && b.values[i] != nil && b.keys[i] != key {
			made.keys[n], made.values[n] = b.keys[i], b.values[i]
			n++
		}
	}
	return made
}
