// Package needs lets tests say what they cannot do without, and says at the end
// which were skipped for the lack of it.
package needs

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// LongVariable is the environment variable that, set to 1, lets tests run that take
// long: more than ten seconds, or more than Go and this module.
const LongVariable = "CONNREUSE_LONG"

var (
	mu      sync.Mutex
	skipped = make(map[string]int) // tests, by what would let them run
)

// Program returns the path of a program that a test runs. Where it is missing, the
// test is skipped with the Debian package to install; in CI it fails.
func Program(t testing.TB, program, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		install(t, debianPackage, err)
	}
	return path
}

// File is like [Program], for a file that belongs to a program, such as a module.
func File(t testing.TB, path, debianPackage string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		install(t, debianPackage, err)
	}
	return path
}

// install ends a test that misses something which a package has.
func install(t testing.TB, debianPackage string, err error) {
	t.Helper()
	if inCI() {
		t.Fatalf("%v: install the package %s", err, debianPackage)
		return
	}
	skip(t, "install the package "+debianPackage, err.Error())
}

// Root skips a test that does something only root may do.
func Root(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "run as root", what+" takes root")
	}
}

// Long skips a test that takes long, unless that is wanted.
func Long(t testing.TB) {
	t.Helper()
	if !long() {
		skip(t, "set "+LongVariable+"=1", "takes long")
	}
}

// InLong returns how often, or for how long, a test does something: the first where
// tests may take long and in CI, the second otherwise. With the second it shows the
// same, though it finds what is rare less often.
func InLong[T any](many, few T) T {
	if long() || inCI() {
		return many
	}
	return few
}

func long() bool { return os.Getenv(LongVariable) == "1" }

func inCI() bool { return os.Getenv("CI") == "true" }

func skip(t testing.TB, remedy, why string) {
	t.Helper()
	mu.Lock()
	skipped[remedy]++
	mu.Unlock()
	t.Skipf("%s: %s", why, remedy)
}

// Main runs the tests of a package and says what was skipped. It is for TestMain.
func Main(m *testing.M) { os.Exit(Report(m.Run())) }

// Report says in one line what was skipped, and returns the exit code it is given.
// The line goes to the terminal, if there is one: go test hides what a package
// writes that passes.
func Report(code int) int {
	line := summary()
	if line == "" {
		return code
	}
	if !testing.Verbose() {
		if terminal, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
			defer terminal.Close()
			fmt.Fprintln(terminal, line)
			return code
		}
	}
	fmt.Fprintln(os.Stderr, line)
	return code
}

// summary is that line, or empty.
func summary() string {
	mu.Lock()
	defer mu.Unlock()
	n := 0
	var packages, others []string
	for _, remedy := range slices.Sorted(maps.Keys(skipped)) {
		n += skipped[remedy]
		if name, ok := strings.CutPrefix(remedy, "install the package "); ok {
			packages = append(packages, name)
		} else {
			others = append(others, remedy)
		}
	}
	if n == 0 {
		return ""
	}
	if len(packages) > 0 {
		others = append([]string{"apt-get install " + strings.Join(packages, " ")}, others...)
	}
	return fmt.Sprintf("%d tests were skipped; to run them: %s", n, strings.Join(others, "; "))
}
