package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// poolLog makes Caddy's log hold every replay.
const poolLog = `log pool {
		include http.reverse_proxy.transport.upstreampool
		level DEBUG
	}`

// TestRestartUnderLoad restarts upstreams, gracefully and by SIGKILL, while they
// are asked. Outside of the time in which no process listens nothing fails; in
// it, a GET whose first attempt used a connection from the pool fails only if
// its replay found no server either. No POST is done twice, and the log has a
// line for each failure.
func TestRestartUnderLoad(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	port := freePort(t)
	var ups []upstream
	var sites strings.Builder
	for _, kind := range []servers.Kind{servers.Node, servers.Nginx, servers.NodeH2, servers.GoH2C} {
		u := newUpstream(t, kind)
		ups = append(ups, u)
		sites.WriteString(u.site(port, ""))
	}
	c := startCaddy(t, poolLog, sites.String(), nil)
	web := newWebClient(t, "127.0.0.1:"+port)
	var all sync.WaitGroup
	for _, u := range ups {
		all.Go(func() {
			t.Run(u.Name, func(t *testing.T) {
				s := u.start(t, 5*time.Second)
				l := startLoad(t, web, u.host)
				for i := range 4 {
					time.Sleep(2 * time.Second) // of load
					graceful := i%2 == 0
					from := time.Now()
					if err := s.Restart(graceful, s.KeepAlive); err != nil {
						t.Error(err)
						break
					}
					l.down = append(l.down, interval{from, time.Now()})
				}
				time.Sleep(time.Second)
				l.stop()
				l.check(t, c)

				done, err := s.Done()
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range l.results {
					// nginx writes its log after the response, so SIGKILL may lose a line.
					times := done[r.method+" "+r.target]
					if r.method == "POST" && times > 1 || r.status == 200 && r.err == nil && times == 0 && u.Program != "nginx" {
						t.Errorf("%s %s (%d) was done %d times", r.method, r.target, r.status, times)
					}
				}
			})
		})
	}
	all.Wait()
}

// An interval is a time in which no server is sure to listen.
type interval struct{ from, to time.Time }

func (i interval) overlaps(j interval) bool { return i.from.Before(j.to) && j.from.Before(i.to) }

// A result is what became of one request.
type result struct {
	interval
	method, target string
	status         int
	err            error
}

// A load asks one host about a hundred times a second, GET and POST in turn,
// each with a target of its own.
type load struct {
	down []interval

	end     chan struct{}
	all     sync.WaitGroup
	mu      sync.Mutex
	results []result
}

func startLoad(t *testing.T, web *webClient, host string) *load {
	l := &load{end: make(chan struct{})}
	l.all.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-l.end:
				return
			case <-tick.C:
			}
			l.all.Go(func() {
				r := result{method: []string{"GET", "POST"}[i%2], target: fmt.Sprintf("/%s?%d", host, i)}
				r.from = time.Now()
				r.status, r.err = web.do(r.method, host, r.target)
				r.to = time.Now()
				l.mu.Lock()
				defer l.mu.Unlock()
				l.results = append(l.results, r)
			})
		}
	})
	t.Cleanup(l.stop)
	return l
}

// stop ends the load and waits for its responses.
func (l *load) stop() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.all.Wait()
}

// addresses are what makes log lines of one cause differ.
var addresses = regexp.MustCompile(`127\.0\.0\.1:\d+(->127\.0\.0\.1:\d+)?`)

// check compares what failed with the log, and tells of it by cause.
func (l *load) check(t *testing.T, c *caddy) {
	t.Helper()
	log := c.requestLog()
	causes := make(map[string]int)
	for _, r := range l.results {
		lines := log[r.target]
		if r.err == nil && r.status < 500 {
			if len(lines.failures) > 0 {
				t.Errorf("%s %s: %d, but the log says %v", r.method, r.target, r.status, lines.failures)
			}
			continue
		}
		restarting := slices.ContainsFunc(l.down, r.overlaps)
		cut := restarting && r.status == 200 // SIGKILL came between the header and the body
		if len(lines.failures) != 1 || !cut && (r.err != nil || r.status != 502) {
			t.Errorf("%s %s: %d, %v; in the log: %v; want one line for a 502", r.method, r.target, r.status, r.err, lines.failures)
			continue
		}
		cause := r.method + ": " + addresses.ReplaceAllString(lines.failures[0], "ADDR")
		switch {
		case cut:
			cause += "; in the response"
		case lines.replayFailed != "":
			cause += "; replay: " + addresses.ReplaceAllString(lines.replayFailed, "ADDR")
		case lines.replayed:
			cause += "; after a replay"
		case lines.reused:
			cause += "; on a reused connection"
		default:
			cause += "; on a new connection"
		}
		causes[cause]++
		if !restarting {
			t.Errorf("failed while a server was listening: %s %s: %s", r.method, r.target, cause)
		}
		if r.method == "GET" && lines.reused {
			t.Errorf("GET %s failed on a reused connection and was not replayed: %s", r.target, cause)
		}
	}
	t.Logf("%d requests", len(l.results))
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		t.Logf("%5d failed: %s", causes[cause], cause)
	}
}

// requestLines are the lines of Caddy's log about one request.
type requestLines struct {
	failures     []string // the error that was answered with a 5xx, or cut the response
	reused       bool     // it failed on a connection from the pool, for good
	replayed     bool
	replayFailed string // there was no connection for the replay: why
}

// requestLog reads Caddy's log, by the target of requests.
func (c *caddy) requestLog() map[string]requestLines {
	log := make(map[string]requestLines)
	lines := bufio.NewScanner(strings.NewReader(c.log.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry struct {
			Logger, Msg, URI, Error string
			Status                  int
			Request                 struct{ URI string }
		}
		if json.Unmarshal(lines.Bytes(), &entry) != nil {
			continue
		}
		uri := entry.URI + entry.Request.URI
		l := log[uri]
		switch entry.Msg {
		case "replaying request":
			l.replayed = true
		case "replaying request failed":
			l.replayFailed = entry.Error
		case "request failed on reused connection":
			l.reused = true
		case "aborting with incomplete response":
			l.failures = append(l.failures, entry.Error)
		default:
			if entry.Logger == "http.log.error" && entry.Status >= 500 {
				l.failures = append(l.failures, entry.Msg)
			}
		}
		log[uri] = l
	}
	return log
}
