// Package poll waits in tests for what another goroutine or process is about to do.
package poll

import (
	"errors"
	"testing"
	"time"
)

// A minute is for slow machines: who waits in vain has found a fault.
const patience = time.Minute

// Until waits until ok returns true.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	Succeed(t, what, func() error {
		if !ok() {
			return errors.New("it is not so")
		}
		return nil
	})
}

// Succeed waits until try returns no error.
func Succeed(t testing.TB, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) { // polls
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %v after %v", what, err, patience)
		}
	}
}
