package parallel

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(2)
	AtLeast(atOnce)
	os.Exit(m.Run())
}

const atOnce = 6

// More tests than there are processors wait for each other.
func TestAtOnce(t *testing.T) {
	var begun sync.WaitGroup
	begun.Add(atOnce)
	all := make(chan struct{})
	go func() {
		begun.Wait()
		close(all)
	}()
	for range atOnce {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			begun.Done()
			select {
			case <-all:
			case <-time.After(time.Minute):
				t.Error("the others have not begun")
			}
		})
	}
}
