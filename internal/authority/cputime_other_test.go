//go:build !linux

package authority

import (
	"testing"
	"time"
)

// cpuTime returns the time that f takes, since there is no better measure here.
func cpuTime(_ *testing.T, f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}
