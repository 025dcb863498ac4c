package authority

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// cpuTime returns the CPU time that f takes on this thread. The time that other
// programs take does not count.
func cpuTime(t *testing.T, f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	now := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &usage); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	began := now()
	f()
	return now() - began
}
