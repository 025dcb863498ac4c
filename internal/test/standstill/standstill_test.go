package standstill

import (
	"testing"
	"testing/synctest"
	"time"
)

// On a machine that does nothing else, nothing is lost.
func TestQuietMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := Begin()
		time.Sleep(time.Minute)
		if lost, longest := w.Lost(), w.End(); lost != 0 || longest != 0 {
			t.Errorf("lost %v, %v at most", lost, longest)
		}
		if took, lost := Of(func() { time.Sleep(time.Second) }); took != time.Second || lost != 0 {
			t.Errorf("a second took %v, of which %v were lost", took, lost)
		}
	})
}
