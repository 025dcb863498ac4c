package apart

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What a test does to its process, others do not see, and it runs beside them.
func TestOne(t *testing.T)   { testAlone(t, "TestOther") }
func TestOther(t *testing.T) { testAlone(t, "TestOne") }

func testAlone(t *testing.T, other string) {
	if Process(t) {
		return
	}
	t.Setenv(t.Name(), "set") // panics in a test that runs beside others
	if os.Getenv(other) != "" {
		t.Errorf("the environment has what %s set", other)
	}
}

// failing has TestFailing fail.
const failing = "CONNREUSE_TEST_FAILING"

// A test that fails in its process fails, and says what was said there.
func TestFailureIsSeen(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestFailing$")
	cmd.Env = append(os.Environ(), failing+"=1")
	out, err := cmd.CombinedOutput()
	if text := string(out); err == nil || !strings.Contains(text, "--- FAIL: TestFailing") || !strings.Contains(text, "what went wrong") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFailing(t *testing.T) {
	if os.Getenv(failing) == "" {
		t.Skip("TestFailureIsSeen runs it")
	}
	if Process(t) {
		return
	}
	t.Error("what went wrong")
}
