package poll

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		Until(t, "ten seconds", func() bool { return time.Since(start) >= 10*time.Second })
		if waited := time.Since(start); waited > 11*time.Second {
			t.Errorf("it took %v", waited)
		}
	})
}

// What does not come is said with its reason, and ends the test.
func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		failed := new(recorder)
		done := make(chan struct{})
		go func() {
			defer close(done)
			Succeed(failed, "Godot", func() error { return errors.New("he is not here") })
		}()
		<-done
		if want := "waiting for Godot: he is not here"; !strings.HasPrefix(failed.text, want) {
			t.Errorf("it says %q, want %q", failed.text, want)
		}
	})
}

// A recorder keeps what a test that fails says.
type recorder struct {
	testing.TB
	text string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.text = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
