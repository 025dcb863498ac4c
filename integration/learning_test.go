package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
	"github.com/caddy-connreuse/connreuse/internal/test/standstill"
)

// TestLearning lets the pool find out when each kind of server closes idle
// connections, without any configuration: at first, after the server was given
// a shorter timeout, and that restarts with the same one mean nothing.
func TestLearning(t *testing.T) {
	needs.Long(t)
	t.Parallel()
	port := freePort(t)
	var ups []upstream
	var sites strings.Builder
	for _, kind := range servers.Kinds {
		u := newUpstream(t, kind)
		ups = append(ups, u)
		sites.WriteString(u.site(port, ""))
	}
	c := startCaddy(t, "", sites.String(), nil)
	web := newWebClient(t, "127.0.0.1:"+port)

	// They mostly wait, so they all run at once, whatever -parallel says.
	var all sync.WaitGroup
	for _, u := range ups {
		all.Go(func() {
			t.Run(u.Name, func(t *testing.T) {
				l := &learning{t: t, c: c, web: web, upstream: u, server: u.start(t, 2*time.Second)}
				l.learns()
				if err := l.server.Restart(true, time.Second); err != nil {
					t.Fatal(err)
				}
				l.learns()
				l.postsAroundTheClose()
				l.restartsTeachNothing()
			})
		})
	}
	all.Wait()
}

type learning struct {
	t   *testing.T
	c   *caddy
	web *webClient
	upstream
	server *servers.Server
}

// get makes a request, so that there is an idle connection.
func (l *learning) get() {
	l.t.Helper()
	if status, err := l.web.do("GET", l.host, "/"); err != nil || status >= 300 {
		l.t.Fatalf("GET: %d, %v", status, err)
	}
}

// known is what the metrics say, while there is a connection.
func (l *learning) known() (keepAlive, limit time.Duration, source string) {
	l.t.Helper()
	var ks, limits []sample
	for range 10 { // something may be learned in between
		ks, limits = l.c.samples("keep_alive_seconds", l.addr), l.c.samples("idle_limit_seconds", l.addr)
		if len(ks) == 0 || len(limits) == 0 { // the connection was closed already
			l.get()
			continue
		}
		if limits[0].labels["source"] == ks[0].labels["source"] {
			break
		}
	}
	if len(ks) != 1 || len(limits) != 1 {
		l.t.Fatalf("metrics: %v and %v, want one of each", ks, limits)
	}
	protocol := map[string]string{"http/1.1": "http/1.1", "h2": "h2", "h2c": "h2"}[l.Protocol]
	if ks[0].labels["protocol"] != protocol || limits[0].labels["source"] != ks[0].labels["source"] {
		l.t.Fatalf("metrics: %v and %v, want protocol %s and the same source", ks, limits, protocol)
	}
	seconds := func(v float64) time.Duration { return time.Duration(v * float64(time.Second)) }
	return seconds(ks[0].value), seconds(limits[0].value), ks[0].labels["source"]
}

// pause makes no request for as long as it takes the server to close.
func (l *learning) pause() { time.Sleep(l.server.Closes() + 300*time.Millisecond) }

// learns makes single requests, with pauses, until the pool knows.
func (l *learning) learns() {
	l.t.Helper()
	closes := l.server.Closes()
	for start := time.Now(); time.Since(start) < time.Minute; l.pause() {
		l.get()
		keepAlive, limit, source := l.known()
		// A busy machine closes late. The limit is too high then, until it closes in time.
		found := source == "learned" && (keepAlive-closes).Abs() <= max(300*time.Millisecond, closes/10) && limit < closes ||
			source == "announced" && keepAlive == l.server.Announced()
		if !found {
			continue
		}
		l.t.Logf("closes after %v: %v %s after %v, idle limit %v", closes, keepAlive, source, time.Since(start).Round(10*time.Millisecond), limit)
		if want := map[bool]string{true: "announced", false: "learned"}[l.Announces]; source != want {
			l.t.Errorf("source is %s, want %s", source, want)
		}
		if limit >= closes || limit < keepAlive/2 {
			l.t.Errorf("idle limit = %v, but it closes after %v", limit, closes)
		}
		return
	}
	keepAlive, limit, source := l.known()
	l.t.Fatalf("%v (%s) after a minute, idle limit %v, but it closes after %v", keepAlive, source, limit, closes)
}

// postsAroundTheClose makes requests that nobody may repeat just when the
// server closes: none may fail.
func (l *learning) postsAroundTheClose() {
	const together = 6
	for i, offset := range []time.Duration{-250, -120, -50, -10, 0, 20, 100} {
		var batch sync.WaitGroup
		for j := range together {
			batch.Go(func() {
				if status, err := l.web.do("POST", l.host, fmt.Sprintf("/post?%d.%d", i, j)); err != nil || status >= 300 {
					l.t.Errorf("POST %d ms from the close: %d, %v", offset, status, err)
				}
			})
		}
		batch.Wait()
		time.Sleep(l.server.Closes() + offset*time.Millisecond)
	}
	poll.Succeed(l.c.t, "the server to note all POSTs", func() error {
		done, err := l.server.Done()
		if err != nil {
			return err
		}
		posts := 0
		for request, times := range done {
			if strings.HasPrefix(request, "POST ") {
				posts++
				if times != 1 {
					l.t.Errorf("%s was done %d times", request, times)
				}
			}
		}
		if posts != 7*together {
			return fmt.Errorf("%d POSTs were done, want %d", posts, 7*together)
		}
		return nil
	})
}

// restartsTeachNothing restarts the server as it is, each time with one idle
// connection of the same age.
func (l *learning) restartsTeachNothing() {
	l.pause()
	l.get()
	keepAlive, _, source := l.known()
	l.pause() // now there is no connection
	for range 3 {
		l.get()
		time.Sleep(450 * time.Millisecond) // the age
		if err := l.server.Restart(true, l.server.KeepAlive); err != nil {
			l.t.Fatal(err)
		}
		l.get()
		l.pause()
	}
	l.get()
	// What was learned late, on a busy machine, may have been corrected.
	if k, _, s := l.known(); k < min(keepAlive, l.server.Closes())-100*time.Millisecond || s != source {
		l.t.Errorf("three restarts made %v (%s) of %v (%s)", k, s, keepAlive, source)
	}
}

// TestSensor watches, at the upstream, that a connection which is set aside to
// see when the upstream closes never carries a request again, and that there is
// one at most.
func TestSensor(t *testing.T) {
	t.Parallel()
	const (
		limit  = 3800 * time.Millisecond // as long as nothing is known
		closes = 8 * time.Second
	)
	type conn struct {
		requests int
		last     time.Time
		lost     time.Duration // by the machine until then
		closed   time.Time
	}
	machine := standstill.Begin()
	defer machine.End()
	var mu sync.Mutex
	conns := make(map[string]*conn)
	server := &http.Server{
		IdleTimeout: closes,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			x := conns[r.RemoteAddr]
			if idle := time.Since(x.last); x.requests > 0 && idle >= limit+400*time.Millisecond+machine.Lost()-x.lost {
				t.Errorf("a request came on a connection idle for %v", idle)
			}
			x.requests++
		}),
		ConnState: func(c net.Conn, state http.ConnState) {
			mu.Lock()
			defer mu.Unlock()
			switch addr := c.RemoteAddr().String(); state {
			case http.StateNew:
				conns[addr] = new(conn)
			case http.StateIdle:
				conns[addr].last, conns[addr].lost = time.Now(), machine.Lost()
			case http.StateClosed:
				conns[addr].closed = time.Now()
			}
		},
	}
	addr := "127.0.0.1:" + freePort(t)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })

	port := freePort(t)
	u := upstream{servers.Go, addr, "go.test"}
	c := startCaddy(t, "", u.site(port, ""), nil)
	web := newWebClient(t, "127.0.0.1:"+port)
	burst := func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if status, err := web.do("GET", u.host, "/"); err != nil || status != 200 {
					t.Errorf("GET: %d, %v", status, err)
				}
			})
		}
		all.Wait()
	}

	burst()
	poll.Succeed(c.t, "a sensor", func() error {
		if n := c.connections(addr, "sensor"); n != 1 {
			return fmt.Errorf("%d sensors", n)
		}
		return nil
	})
	// The others of the burst are closed. Go on with many requests while there
	// is a sensor; its limit does not keep them from getting connections.
	busy, most := 0, 0
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for ; ctx.Err() == nil; busy++ {
		burst()
		n := c.connections(addr, "sensor")
		most = max(most, n)
		if n == 0 {
			break
		}
	}
	if most != 1 || busy < 3 {
		t.Errorf("there were up to %d sensors, over %d bursts of requests; want 1, over some", most, busy)
	}

	// The server notes what it closes a moment later.
	poll.Succeed(c.t, "the upstream to close one connection, that of the sensor", func() error {
		mu.Lock()
		defer mu.Unlock()
		sensors := 0
		for _, x := range conns {
			if x.requests > 0 && !x.closed.IsZero() && x.closed.Sub(x.last) >= closes-50*time.Millisecond {
				sensors++ // only that one was left for the upstream to close
			}
		}
		if sensors != 1 {
			return fmt.Errorf("%d were closed after %v", sensors, closes)
		}
		return nil
	})
}
