//go:build unix

package upstreampool

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// The process stands still for longer than the upstream keeps the connection.
// Timers that were due and the close that was missed must not matter: what
// counts is the age at take-out.
//
// Checklist: P15.
func TestStoppedProcess(t *testing.T) {
	t.Parallel()
	var posts atomic.Int64
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			// No FIN after the timeout, to show that age alone decides; a request
			// that comes too late is never answered.
			idleSince := time.Now()
			req := fake.ReadRequest(r)
			if req == nil {
				return
			}
			if req.Method == "POST" {
				posts.Add(1)
			}
			if time.Since(idleSince) > time.Second {
				return
			}
			fake.Respond(c, strconv.FormatInt(n, 10), "Connection: keep-alive", "Keep-Alive: timeout=1")
		}
	})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "UPSTREAMPOOL_CHILD="+s.addr())
	in, _ := cmd.StdinPipe()
	outPipe, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	out := bufio.NewScanner(outPipe)
	answer := func() string {
		for out.Scan() {
			if a, ok := strings.CutPrefix(out.Text(), "answer "); ok {
				return a
			}
		}
		return fmt.Sprintf("no answer: %v", out.Err())
	}
	fmt.Fprintln(in, "GET")
	if a := answer(); a != "1 <nil>" {
		t.Fatal(a)
	}
	for want := range 3 {
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		time.Sleep(1200 * time.Millisecond)
		fmt.Fprintln(in, "POST") // is there before anything else runs
		_ = cmd.Process.Signal(syscall.SIGCONT)
		if a := answer(); a != fmt.Sprintf("%d <nil>", want+2) {
			t.Errorf("POST after standing still: %s, want a new connection", a)
		}
	}
	if n := posts.Load(); n != 3 {
		t.Errorf("%d POSTs arrived, want 3", n)
	}
}
