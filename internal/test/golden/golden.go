// Package golden compares what tests get with files that say what they should get.
// With -update the tests write these files instead:
//
//	go test ./command -update
package golden

import (
	"bytes"
	"errors"
	"flag"
	"io/fs"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write what the tests get into the golden files")

// Check compares got with a file.
func Check(t testing.TB, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("got\n%s\nbut: %v (write it with -update)", got, err)
		return
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// Absent checks that a file is not there.
func Absent(t testing.TB, file string) {
	t.Helper()
	if *update {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("%s is there, but nothing gives it any more (remove it with -update)", file)
	}
}
