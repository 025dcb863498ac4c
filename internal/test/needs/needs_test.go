package needs

import (
	"fmt"
	"testing"
)

// A skipper is a test that records how it is skipped, or fails.
type skipper struct {
	testing.TB
	said string
}

func (s *skipper) Helper() {}
func (s *skipper) Skipf(format string, args ...any) {
	s.said = "skipped: " + fmt.Sprintf(format, args...)
}
func (s *skipper) Fatalf(format string, args ...any) {
	s.said = "failed: " + fmt.Sprintf(format, args...)
}

func TestSkipped(t *testing.T) {
	t.Setenv("CI", "")
	t.Setenv(LongVariable, "")
	t.Setenv("PATH", t.TempDir())
	defer clear(skipped)

	if got := summary(); got != "" {
		t.Errorf("nothing was skipped, but: %s", got)
	}
	s := new(skipper)
	Program(s, "nodejs-of-test", "nodejs")
	Program(s, "apache-of-test", "apache2")
	Program(s, "nodejs-of-test", "nodejs")
	if want := `skipped: exec: "nodejs-of-test": executable file not found in $PATH: install the package nodejs`; s.said != want {
		t.Errorf("%s, want %s", s.said, want)
	}
	File(s, "/module-of-test.so", "apache2")
	if want := "skipped: stat /module-of-test.so: no such file or directory: install the package apache2"; s.said != want {
		t.Errorf("%s, want %s", s.said, want)
	}
	Long(s)
	if got := InLong(1000, 10); got != 10 {
		t.Errorf("where tests may not take long, something is done %d times, want 10", got)
	}
	if want := "5 tests were skipped; to run them: apt-get install apache2 nodejs; set CONNREUSE_LONG=1"; summary() != want {
		t.Errorf("%s, want %s", summary(), want)
	}
}

func TestNotSkipped(t *testing.T) {
	t.Setenv(LongVariable, "1")
	s := new(skipper)
	Long(s)
	if got := File(s, ".", "needless"); s.said != "" || got != "." {
		t.Error(got, s.said)
	}
	if got := InLong(1000, 10); got != 1000 {
		t.Errorf("where tests may take long, something is done %d times, want 1000", got)
	}
	t.Setenv("CI", "true")
	t.Setenv(LongVariable, "")
	if got := InLong(1000, 10); got != 1000 {
		t.Errorf("in CI something is done %d times, want 1000", got)
	}
	Program(s, "nodejs-of-test", "nodejs")
	if want := `failed: exec: "nodejs-of-test": executable file not found in $PATH: install the package nodejs`; s.said != want {
		t.Errorf("in CI: %s, want %s", s.said, want)
	}
	if got := summary(); got != "" {
		t.Error(got)
	}
}
