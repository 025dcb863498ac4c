// Package linked has lists whose elements carry their own links. To enter a list and
// to leave it costs no search and no allocation.
package linked

import "iter"

// A Node is the place of an element in one list. It stands in the element, once for
// each list that the element can be in at a time. The zero value is in no list.
type Node[T any] struct {
	of         *T
	next, prev *Node[T]
	in         *List[T]
}

// In tells whether the element is in l.
func (k *Node[T]) In(l *List[T]) bool { return l != nil && k.in == l }

// Listed tells whether the element is in a list.
func (k *Node[T]) Listed() bool { return k.in != nil }

// Prev returns the element that entered before this one; nil: there is none.
func (k *Node[T]) Prev() *T { return k.prev.element() }

func (k *Node[T]) element() *T {
	if k == nil {
		return nil
	}
	return k.of
}

// A List has the element that entered first at its beginning. The zero value is an
// empty one.
type List[T any] struct {
	first, last *Node[T]
	n           int
}

// Len returns how many elements there are.
func (l *List[T]) Len() int { return l.n }

// First returns the first element; nil: there is none.
func (l *List[T]) First() *T { return l.first.element() }

// Last returns the last element; nil: there is none.
func (l *List[T]) Last() *T { return l.last.element() }

// Find returns the first element that is so; nil: none is.
func (l *List[T]) Find(so func(*T) bool) *T {
	for of := range l.All() {
		if so(of) {
			return of
		}
	}
	return nil
}

// Push adds an element as the last one. Its node k is in no list.
func (l *List[T]) Push(k *Node[T], of *T) {
	*k = Node[T]{of: of, prev: l.last, in: l}
	if l.last != nil {
		l.last.next = k
	} else {
		l.first = k
	}
	l.last = k
	l.n++
}

// PushFront adds an element as the first one. Its node k is in no list.
func (l *List[T]) PushFront(k *Node[T], of *T) {
	*k = Node[T]{of: of, next: l.first, in: l}
	if l.first != nil {
		l.first.prev = k
	} else {
		l.last = k
	}
	l.first = k
	l.n++
}

// Remove takes out the element with the node k, and tells whether it was in the list.
func (l *List[T]) Remove(k *Node[T]) bool {
	if k.in != l {
		return false
	}
	if k.prev != nil {
		k.prev.next = k.next
	} else {
		l.first = k.next
	}
	if k.next != nil {
		k.next.prev = k.prev
	} else {
		l.last = k.prev
	}
	*k = Node[T]{of: k.of} // All may be about to come to it
	l.n--
	return true
}

// Touch makes the element with the node k the last one, if it is in the list.
func (l *List[T]) Touch(k *Node[T]) {
	if of := k.of; l.last != k && l.Remove(k) {
		l.Push(k, of)
	}
}

// All goes through the elements. The one at hand may leave the list.
func (l *List[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for k := l.first; k != nil; {
			next := k.next
			if !yield(k.of) {
				return
			}
			k = next
		}
	}
}
