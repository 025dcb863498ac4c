package speed

import "testing"

// What a proxy takes anyway, or with the first request, is part of what each of a few
// takes, and of no further one.
func TestFurther(t *testing.T) {
	few := footprint{streaming: 5000 + 10*100, idle: 5000 + 10*20, requests: 10, waiting: 10}
	many := footprint{streaming: 5000 + 110*100, idle: 5000 + 105*20, requests: 110, waiting: 105} // five have been closed
	if got := few.each(); got.streaming != 600 || got.idle != 520 {
		t.Errorf("each of a few: %+v", got)
	}
	if got := many.further(few); got.streaming != 100 || got.idle != 20 {
		t.Errorf("each further one: %+v", got)
	}
}
