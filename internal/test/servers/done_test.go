package servers

import (
	"maps"
	"os"
	"testing"
)

// A line that a server is writing is not taken for a request.
func TestDoneReadsWholeLines(t *testing.T) {
	s := &Server{dir: t.TempDir()}
	if err := os.WriteFile(s.path("done"), []byte("GET /1\nGET /12\nGET /1"), 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := s.Done()
	if want := map[string]int{"GET /1": 1, "GET /12": 1}; err != nil || !maps.Equal(done, want) {
		t.Errorf("%v, %v; want %v", done, err, want)
	}
}
