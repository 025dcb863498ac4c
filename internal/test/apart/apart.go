// Package apart runs a test in a process of its own. There it has for itself what a
// process has but once: the Caddy that runs, the environment, goroutines to be counted.
// So tests that wait can do so beside each other.
package apart

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"
)

// variable is the environment variable that names the test to a process of its own.
const variable = "CONNREUSE_TEST_APART"

// Process runs the test that calls it in a process of its own, and returns true. In that
// process it returns false. The process starts at once; where tests are not parallel, the
// next ones run meanwhile. It has to be the first call:
//
//	func TestStorage(t *testing.T) {
//		if apart.Process(t) {
//			return
//		}
//		// the test
//	}
func Process(t *testing.T) bool {
	t.Helper()
	if os.Getenv(variable) == t.Name() {
		return false
	}
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-time.Second)) // to show what it wrote
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.v", "-test.run=^"+regexp.QuoteMeta(t.Name())+"$")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.WaitDelay = time.Second // programs that it has started may hold its output
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Parallel()
	if err := cmd.Wait(); err != nil {
		t.Errorf("in a process of its own: %v\n%s", err, &out)
	} else if testing.Verbose() {
		t.Logf("in a process of its own:\n%s", &out)
	}
	return true
}
