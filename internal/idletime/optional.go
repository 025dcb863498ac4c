package idletime

import "time"

// An Optional is a duration that may be unknown, which the zero value is.
type Optional struct {
	value time.Duration
	known bool
}

// Known returns the Optional that holds d.
func Known(d time.Duration) Optional { return Optional{d, true} }

// Get returns the duration, and whether it is known.
func (o Optional) Get() (time.Duration, bool) { return o.value, o.known }

// or returns o, or other while o is unknown.
func (o Optional) or(other Optional) Optional {
	if o.known {
		return o
	}
	return other
}

// least returns the smaller of the two that are known.
func (o Optional) least(other Optional) Optional {
	if o.known && (!other.known || o.value <= other.value) {
		return o
	}
	return other
}
