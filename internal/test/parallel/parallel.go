// Package parallel lets tests that wait run at the same time.
package parallel

import (
	"flag"
	"runtime"
	"strconv"
)

// AtLeast lets n tests that call t.Parallel run at once, also where there are fewer
// processors, unless -parallel says otherwise. It is for TestMain, in packages whose
// tests wait for most of their time.
func AtLeast(n int) {
	if runtime.GOMAXPROCS(0) < n {
		// The flag is the testing package's own: it is there, and takes a number.
		_ = flag.Set("test.parallel", strconv.Itoa(n))
	}
}
