package authority

import (
	"fmt"
	"sync"
	"testing"
)

func TestCache(t *testing.T) {
	c := newCache[string, int](64)
	one, two, three := 1, 2, 3
	if c.get("a") != nil {
		t.Error("an empty cache has a value")
	}
	if !c.swap("a", nil, &one) || c.get("a") != &one {
		t.Error("a first value is not kept")
	}
	if c.swap("a", nil, &two) || c.swap("a", &three, &two) || c.get("a") != &one {
		t.Error("a value took the place of another one than the caller knew")
	}
	if !c.swap("a", &one, &two) || c.get("a") != &two {
		t.Error("a value does not take the place of the one the caller knew")
	}
}

// A cache for n keys keeps n keys, but for the few whose bucket is full.
func TestCacheKeepsItsSize(t *testing.T) {
	const size = 10_000
	c := newCache[string, int](size)
	for i := range size {
		c.swap(fmt.Sprint("key ", i), nil, &i)
	}
	kept := 0
	for i := range size {
		if v := c.get(fmt.Sprint("key ", i)); v != nil {
			if *v != i {
				t.Fatalf("key %d has the value %d", i, *v)
			}
			kept++
		}
	}
	if kept < size*98/100 {
		t.Errorf("%d of %d keys are kept", kept, size)
	}
}

// Keys without end displace each other and nothing else grows.
func TestCacheIsBounded(t *testing.T) {
	c := newCache[int, int](100)
	for i := range 100_000 {
		c.swap(i, nil, &i)
	}
	kept := 0
	for i := range 100_000 {
		if c.get(i) != nil {
			kept++
		}
	}
	if kept > 4*100 {
		t.Errorf("%d keys are kept by a cache for 100", kept)
	}
	if c.get(99_999) == nil {
		t.Error("the newest key is not kept")
	}
}

// Of many that want to put a value in the place of the same one, just one does.
func TestCacheSwapsOnce(t *testing.T) {
	c := newCache[int, int](1) // all keys are in few buckets
	var mu sync.Mutex
	won := make(map[int]int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for key := range 6 {
				v := key
				for range 100 {
					old := c.get(key)
					if old != nil && *old != key {
						t.Errorf("key %d has the value %d", key, *old)
					}
				}
				if c.swap(key, nil, &v) {
					mu.Lock()
					won[key]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for key := range 6 {
		if won[key] != 1 {
			t.Errorf("key %d was put in %d times", key, won[key])
		}
	}
}

func TestCacheGetDoesNotAllocate(t *testing.T) {
	type key struct {
		name string
		at   *int
	}
	c := newCache[key, int](10)
	k := key{"name", new(int)}
	c.swap(k, nil, new(int))
	if n := testing.AllocsPerRun(100, func() {
		if c.get(k) == nil {
			t.Fatal("not kept")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCache(b *testing.B) {
	c := newCache[string, int](1024)
	names := make([]string, 64)
	for i := range names {
		names[i] = fmt.Sprintf("host-%d.example.com", i)
		c.swap(names[i], nil, &i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.get(names[i%len(names)])
	}
}
