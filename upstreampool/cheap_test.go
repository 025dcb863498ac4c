package upstreampool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/apart"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// serverVariable lets the test program be a server in a process of its own, on as
// many addresses as it says, so that its memory and descriptors do not count.
const serverVariable = "UPSTREAMPOOL_TEST_SERVER"

// runServer prints its addresses and serves until its standard input ends.
func runServer(addresses string) error {
	var n int
	if _, err := fmt.Sscan(addresses, &n); err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})}
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		go srv.Serve(ln)
		fmt.Println(ln.Addr())
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// startServer starts such a server.
func startServer(t testing.TB, addresses int) (addrs []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", serverVariable, addresses))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	for scanner := bufio.NewScanner(stdout); len(addrs) < addresses; {
		if !scanner.Scan() {
			t.Fatalf("the server ended: %v", scanner.Err())
		}
		addrs = append(addrs, scanner.Text())
	}
	return addrs
}

// fill leaves n idle connections to addr: responses are read only when all have
// begun.
func fill(t testing.TB, tr http.RoundTripper, addr string, n int) {
	t.Helper()
	var bodies []io.ReadCloser
	for range n {
		resp, err := tr.RoundTrip(requestTo(t, context.Background(), "GET", "tcp", addr, nil))
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, resp.Body)
	}
	for _, body := range bodies {
		_, _ = io.Copy(io.Discard, body)
		_ = body.Close()
	}
}

// Many upstreams with ten idle connections each: the pools have no goroutine
// of their own, only net/http's two for each connection.
func TestManyIdleConnections(t *testing.T) {
	upstreams, connections := needs.InLong(1000, 100), 10
	if race.Enabled {
		upstreams = 100 // the detector has room for 8128 goroutines
	}
	addrs := startServer(t, upstreams)
	tr := newTransport(t, known)
	goroutines := runtime.NumGoroutine()
	for _, addr := range addrs {
		fill(t, tr, addr, connections)
	}
	// Where dials take long, there are a few more connections, or some are closed again.
	const nearly = 0.9
	eventually(t, "connections idle", func() bool {
		return float64(tr.core.group.Idle()) >= nearly*float64(upstreams*connections)
	})
	// One that has just dialed may be about to end.
	eventually(t, "two goroutines for each connection", func() bool { return runtime.NumGoroutine()-goroutines <= 2*tr.core.group.Idle() })
	var stacks strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		t.Fatal(err)
	}
	for stack := range strings.SplitSeq(stacks.String(), "\n\n") {
		frames := strings.Split(strings.TrimSpace(stack), "\n")
		if start := frames[len(frames)-1]; strings.Contains(start, "/connpool.(*") {
			t.Errorf("a goroutine of ours:\n%s", stack)
		}
	}
}

// alone waits until the connections of tests before have ended: they take memory, and
// ending them takes more.
func alone(t *testing.T) {
	t.Helper()
	eventually(t, "other tests' goroutines to end", func() bool { return runtime.NumGoroutine() < 10 })
}

// An idle connection takes at most 1.4 KiB more than one of transport http.
func TestMemoryOfIdleConnections(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector has memory of its own")
	}
	if apart.Process(t) {
		return
	}
	alone(t)
	const connections, most = 2000, 1434
	inUse := func() int64 {
		debug.FreeOSMemory() // collects garbage, stacks too
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	addr := startServer(t, 1)[0]
	measure := func(tr http.RoundTripper) int64 {
		fill(t, tr, addr, 10) // what is made once
		before := inUse()
		fill(t, tr, addr, connections)
		return (inUse() - before) / (connections - 10)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	var more []int64
	for range 6 {
		stock := &reverseproxy.HTTPTransport{KeepAlive: &reverseproxy.KeepAlive{MaxIdleConnsPerHost: 2 * connections}}
		if err := stock.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		theirs := measure(stock)
		_ = stock.Cleanup()
		alone(t)
		tr := newTransport(t, func(tr *Transport) {
			known(tr)
			tr.KeepAlive = &reverseproxy.KeepAlive{MaxIdleConnsPerHost: 2 * connections}
		})
		ours := measure(tr)
		Drain("")
		alone(t)
		t.Logf("an idle connection takes %d bytes, with transport http %d", ours, theirs)
		more = append(more, ours-theirs)
	}
	more = more[1:] // the runtime starts goroutines with the stack that others needed before
	slices.Sort(more)
	if more[2] > most {
		t.Errorf("an idle connection takes %d bytes more than with transport http, want at most %d", more[2], most)
	}
}

// A GET on a connection that is there already takes no more objects than with
// transport http, and at most 5 % more bytes. Over HTTP/2 it is three objects more: the
// placeholders, and http.ClientConn runs its state hook twice for each stream, with one
// each.
func TestAllocations(t *testing.T) {
	if apart.Process(t) {
		return
	}
	if race.Enabled {
		t.Skip("the race detector has memory of its own")
	}
	for protocol, more := range map[string]float64{"h1": 0, "h2": 3} {
		t.Run(protocol, func(t *testing.T) {
			alone(t)
			get := getter(t, protocol)
			measure := func(tr http.RoundTripper) (objects, bytes float64) {
				const requests = 2000
				var before, after runtime.MemStats
				for i := range requests + 10 {
					if i == 10 {
						runtime.ReadMemStats(&before)
					}
					if err := get(tr); err != nil {
						t.Fatal(err)
					}
					awaitReturn(t, tr)
				}
				runtime.ReadMemStats(&after)
				return float64(after.Mallocs-before.Mallocs) / requests, float64(after.TotalAlloc-before.TotalAlloc) / requests
			}
			theirs, ours := transports(t, protocol)
			theirObjects, theirBytes := measure(theirs)
			ourObjects, ourBytes := measure(ours)
			t.Logf("%.1f objects and %.0f bytes, transport http %.1f and %.0f, the server's included", ourObjects, ourBytes, theirObjects, theirBytes)
			if ourObjects > theirObjects+more+0.5 {
				t.Errorf("%.1f objects, transport http %.1f, want at most %.0f more", ourObjects, theirObjects, more)
			}
			if ourBytes > 1.05*theirBytes {
				t.Errorf("%.0f bytes, transport http %.0f, want at most 5 %% more", ourBytes, theirBytes)
			}
		})
	}
}
