package golden

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "golden")
	for _, test := range []struct {
		name   string
		update bool
		check  func(testing.TB)
		want   string // what it says
	}{
		{"no file", false, func(t testing.TB) { Check(t, file, []byte("one")) }, "write it with -update"},
		{"written", true, func(t testing.TB) { Check(t, file, []byte("one")) }, ""},
		{"the same", false, func(t testing.TB) { Check(t, file, []byte("one")) }, ""},
		{"another", false, func(t testing.TB) { Check(t, file, []byte("two")) }, "got\ntwo\nwant\none"},
		{"still there", false, func(t testing.TB) { Absent(t, file) }, "remove it with -update"},
		{"removed", true, func(t testing.TB) { Absent(t, file) }, ""},
		{"gone", false, func(t testing.TB) { Absent(t, file) }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := *update
			defer func() { *update = given }()
			*update = test.update
			said := new(recorder)
			test.check(said)
			if test.want == "" && said.text != "" || !strings.Contains(said.text, test.want) {
				t.Errorf("it says %q, want %q", said.text, test.want)
			}
		})
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is still there")
	}
}

// A recorder keeps what a test that fails says.
type recorder struct {
	testing.TB
	text string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Errorf(format string, args ...any) { r.text += fmt.Sprintf(format, args...) }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...) }
func (r *recorder) Fatal(args ...any)                 { r.text += fmt.Sprint(args...) }
