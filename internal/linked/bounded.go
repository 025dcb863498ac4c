package linked

import "sync"

// A Bounded list drives out the first element when there are too many. It may be used
// by several goroutines at a time, and locks nothing else.
type Bounded[T any] struct {
	most int // zero: any number

	mu   sync.Mutex
	list List[T]
}

// NewBounded returns a list for that many elements. Zero stands for any number.
func NewBounded[T any](most int) *Bounded[T] { return &Bounded[T]{most: most} }

// Push adds an element as the last one. If there are too many then, it takes out the
// first and returns it.
func (b *Bounded[T]) Push(k *Node[T], of *T) (victim *T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list.Push(k, of)
	if b.most > 0 && b.list.n > b.most {
		first := b.list.first
		victim = first.of
		b.list.Remove(first)
	}
	return victim
}

// Remove takes out the element with the node k, if it is in the list.
func (b *Bounded[T]) Remove(k *Node[T]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list.Remove(k)
}

// Has tells whether the element with the node k is in the list.
func (b *Bounded[T]) Has(k *Node[T]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return k.Listed()
}

// Len returns how many elements there are.
func (b *Bounded[T]) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.list.n
}
