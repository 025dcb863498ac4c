// Package cputime measures what does not go by the load of the machine.
package cputime

import (
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Of returns the CPU time that f takes on this thread. The time that other programs
// take does not count.
func Of(t testing.TB, f func()) time.Duration {
	t.Helper()
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
