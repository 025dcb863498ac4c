package integration

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// TestStoryClosedBeforeResponse runs example/closed-before-response with an
// upstream that closes idle connections after 2 s: what it announces is 1 s.
func TestStoryClosedBeforeResponse(t *testing.T) {
	t.Parallel()
	const folder, closes = "closed-before-response", 2 * time.Second
	node := needs.Program(t, "node", "nodejs")
	haproxy := needs.Program(t, "haproxy", "haproxy")
	nginx := needs.Program(t, "nginx", "nginx-light")

	upstreamPort, linePort, haproxyPort, nginxPort := freePort(t), freePort(t), freePort(t), freePort(t)
	env := []string{"UPSTREAM_PORT=" + upstreamPort, "LINE_PORT=" + linePort, "HAPROXY_PORT=" + haproxyPort, "KEEP_ALIVE_MS=1000"}
	player{env: env, listen: []string{upstreamPort}, args: []string{node, example(t, folder, "server.js")}}.start(t)
	player{env: env, listen: []string{linePort}, args: []string{buildExample(t, folder, "line")}}.start(t)
	player{env: env, listen: []string{haproxyPort}, args: []string{haproxy, "-db", "-f", example(t, folder, "haproxy.cfg")}}.start(t)
	dir := t.TempDir()
	config, err := os.ReadFile(example(t, folder, "nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(":8081", ":"+upstreamPort, ":8082", ":"+linePort, ":8084", ":"+nginxPort).Replace(string(config))
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	player{dir: dir, listen: []string{nginxPort}, args: []string{nginx, "-p", dir, "-e", "error.log", "-c", filepath.Join(dir, "nginx.conf")}}.start(t)
	c := startExample(t, folder, env...)
	c.certificates(c.addr, []string{"localhost"})

	type peer struct {
		name, scheme, port, path string
	}
	peers := []peer{
		{"stock Caddy", "https", c.port, "/stock"},
		{"HAProxy", "http", haproxyPort, "/"},
		{"nginx", "http", nginxPort, "/"},
		{"upstreampool", "https", c.port, "/upstreampool"},
	}

	// post sends a POST, which net/http's client does not repeat, and returns the
	// status, or 0 for no answer.
	post := func(p peer, path string, client *http.Client) int {
		resp, err := client.Post(p.scheme+"://localhost"+path, "text/plain", strings.NewReader("x"))
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return 0
		}
		return resp.StatusCode
	}

	// On the line, a request that is sent on an idle connection after the
	// upstream has closed it always crosses the FIN.
	t.Run("a FIN that crosses a request", func(t *testing.T) {
		packets := capturePackets(t, upstreamPort)
		second := make(map[string]int)
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, p := range peers {
			all.Go(func() {
				client := toPort(t, p.port, func(p *http.Protocols) { p.SetHTTP1(true) })
				path := "/late" + p.path
				if got := post(p, path, client); got != http.StatusOK {
					t.Errorf("%s: the first request got %d", p.name, got)
				}
				time.Sleep(closes + time.Second) // the idle time is what this is about
				got := post(p, path, client)
				mu.Lock()
				defer mu.Unlock()
				second[p.name] = got
			})
		}
		all.Wait()
		t.Logf("the second request got (0: no answer at all): %v", second)
		if got := second["upstreampool"]; got != http.StatusOK {
			t.Errorf("upstreampool: the second request got %d, want 200", got)
		}
		if got := second["stock Caddy"]; got != http.StatusBadGateway {
			t.Errorf("stock Caddy: the second request got %d, want 502: does the line keep FINs?", got)
		}
		packets(func(streams map[string][]string) error {
			// The upstream closes, gets the request, and knows of no such connection
			// any more.
			end := strings.Join(streams["/late/stock"], ", ")
			if !regexp.MustCompile(`upstream FIN(, proxy data)+(, upstream RST)+$`).MatchString(end) {
				return fmt.Errorf("stock Caddy's connection does not end with FIN, request, RST, but: %s", end)
			}
			t.Logf("on the wire, stock Caddy: %s", end)
			return nil
		})
	})

	// The same load on all, straight to the upstream: bursts, and gaps around the
	// moment at which it closes.
	t.Run("the same load", func(t *testing.T) {
		const bursts, concurrent = 5, 12
		failed := make(map[string]int)
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, p := range peers {
			for range concurrent {
				all.Go(func() {
					client := toPort(t, p.port, func(p *http.Protocols) { p.SetHTTP1(true) })
					for burst := range bursts {
						if post(p, p.path, client) != http.StatusOK {
							mu.Lock()
							failed[p.name]++
							mu.Unlock()
						}
						time.Sleep(closes + time.Duration(burst-bursts/2)*5*time.Millisecond)
					}
				})
			}
		}
		all.Wait()
		for _, p := range peers {
			t.Logf("%s: %d of %d requests failed", p.name, failed[p.name], bursts*concurrent)
		}
		if n := failed["upstreampool"]; n > 0 {
			t.Errorf("upstreampool: %d requests failed", n)
		}
	})
}

// buildExample builds a program of a folder of ../example.
func buildExample(t testing.TB, folder, program string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), program)
	if out, err := exec.Command("go", "build", "-o", bin, "./"+filepath.Join("../example", folder, program)).CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return bin
}

// capturePackets records the packets of a port of loopback. What it returns ends that,
// as soon as check is content with them: who sent data, a FIN or an RST, in order,
// by the target of the first request on the connection.
func capturePackets(t *testing.T, port string) func(check func(map[string][]string) error) {
	t.Helper()
	tshark := needs.Program(t, "tshark", "tshark")
	needs.Root(t, "capturing packets")
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, tshark, "-l", "-n", "-i", "lo", "-f", "tcp port "+port,
		"-T", "fields", "-e", "tcp.stream", "-e", "tcp.srcport", "-e", "tcp.len", "-e", "tcp.flags.fin", "-e", "tcp.flags.reset", "-e", "tcp.payload")
	var errs, lines logBuffer
	cmd.Stdout, cmd.Stderr = &lines, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() { cancel(); <-ended })

	wait := func(what string, done func() error) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) { // polls another process
			err := done()
			if err == nil {
				return
			}
			select {
			case <-ended:
				t.Fatalf("tshark ended: %s", errs.String())
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("waiting for %s: %v; tshark: %s", what, err, errs.String())
			}
		}
	}
	// It captures when it shows a packet: one of ours.
	wait("tshark to capture", func() error {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		conn.Close()
		if lines.String() == "" {
			return errors.New("no packet yet")
		}
		return nil
	})
	return func(check func(map[string][]string) error) {
		wait("the packets", func() error {
			targets, streams := make(map[string]string), make(map[string][]string)
			for line := range strings.Lines(lines.String()) {
				field := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
				if len(field) != 6 || line[len(line)-1] != '\n' {
					continue // not all of it has come
				}
				stream, who := field[0], "proxy"
				if field[1] == port {
					who = "upstream"
				}
				if _, ok := targets[stream]; !ok && field[2] != "0" {
					payload, err := hex.DecodeString(field[5])
					request := strings.Fields(string(payload))
					if err != nil || len(request) < 2 {
						return fmt.Errorf("no request: %q", field[5])
					}
					targets[stream] = request[1]
				}
				target := targets[stream]
				for _, what := range []struct {
					name string
					is   bool
				}{{"data", field[2] != "0"}, {"FIN", field[3] == "1"}, {"RST", field[4] == "1"}} {
					if what.is {
						streams[target] = append(streams[target], who+" "+what.name)
					}
				}
			}
			return check(streams)
		})
	}
}
