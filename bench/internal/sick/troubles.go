package sick

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// troubles, in the order of the page. Those that are quiet stand together: they run
// at the same time.
var troubles = []trouble{
	{
		name: "silent", plot: true, secure: true, last: 30 * time.Second, quick: 4 * time.Second,
		text: fmt.Sprintf("**A silent backend.** A TCP balancer sends one connection in four to a server that accepts it and says nothing; connections "+
			"are renewed after %v; TLS; 100 requests/s", renewed),
		fleet: balanced(func(net.Conn) {}),
		load:  load{pause: every(10 * time.Millisecond)},
		claims: func(r *report.Result, by map[string]*figures) {
			most(r, by, "sick/silent-failed", "silent backend: requests of `upstreampool` that fail, per 1000", perThousand, 10)
			r.AtLeast("sick/silent-met", "silent backend: connections of `upstreampool` that met it", float64(by[ours].faults), 1)
			most(r, by, "sick/silent-longest", "silent backend: the longest request of `upstreampool`, s", longest, 2)
		},
	},
	{
		name: "refusing", secure: true, retries: true, last: 20 * time.Second, quick: 4 * time.Second,
		text:  "**A backend that refuses.** As before, but the one server resets its connections; `lb_retries 2` in Caddy",
		fleet: balanced(fake.Reset),
		load:  load{pause: every(10 * time.Millisecond)},
		claims: func(r *report.Result, by map[string]*figures) {
			none(r, by, "sick/refusing", "refusing backend: failed requests of `upstreampool`")
		},
	},
	{
		name: "restarts", plot: true, retries: true, last: 30 * time.Second, quick: 4 * time.Second,
		text: "**A rolling restart.** Four servers, of which one is restarted every second, gracefully, and down for 0.3 s; " +
			"200 requests/s; `lb_retries 2` in Caddy",
		fleet: rolling(4, 700*time.Millisecond, 300*time.Millisecond),
		load:  load{pause: every(5 * time.Millisecond)},
		claims: func(r *report.Result, by map[string]*figures) {
			// A request can be on its way while the server closes: nobody can know, and on a
			// busy machine it is so for longer. A short run has fewer than 1000.
			limit := max(1, 1000/float64(len(by[ours].sent))) + perThousand(by[stock])
			most(r, by, "sick/restarts", "rolling restart: requests of `upstreampool` that fail, per 1000: at most one more than of `transport http`", perThousand, limit)
		},
	},
	{
		name: "streams", secure: true, without: []string{nginx}, last: 20 * time.Second, quick: 4 * time.Second,
		text: "**MAX_CONCURRENT_STREAMS 5.** Bursts of 40 requests every half second towards HTTP/2, each answered after 20 ms",
		fleet: one(func(_ *fleet, l *fake.Listener) error {
			return l.Serve(true, slowly(20*time.Millisecond), func(s *http.Server) {
				s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 5}
			})
		}),
		load: load{pause: every(500 * time.Millisecond), burst: 40},
		claims: func(r *report.Result, by map[string]*figures) {
			none(r, by, "sick/streams-failed", "five streams at a time: failed requests of `upstreampool`")
			most(r, by, "sick/streams-longest", "five streams at a time: the longest request of `upstreampool`, s", longest, 2)
		},
	},
	{
		name: "cold", plot: true, last: 20 * time.Second, quick: 5 * time.Second,
		text: "**Bursts of POSTs on a cold pool.** 100 POSTs at once, every 1.2 s, from the first moment on; each is answered after 20 ms; " +
			"the server closes idle connections after 5 s",
		fleet: one(func(_ *fleet, l *fake.Listener) error {
			return l.Serve(false, slowly(20*time.Millisecond), func(s *http.Server) { s.IdleTimeout = 5 * time.Second })
		}),
		load: load{pause: every(1200 * time.Millisecond), burst: 100, posts: true},
		claims: func(r *report.Result, by map[string]*figures) {
			none(r, by, "sick/cold-failed", "cold bursts of POSTs: failed requests of `upstreampool`")
			most(r, by, "sick/cold-connections", "cold bursts of POSTs: connections of `upstreampool` per request", (*figures).each, 0.5)
		},
	},
	{
		name: "age", quiet: true, last: 60 * time.Second, quick: 30 * time.Second,
		text:  "**Closing by age.** A server that closes each connection when it is 2 s old, whatever happens on it; a request every 0.2 to 0.6 s",
		fleet: closingAtAge(2 * time.Second),
		load:  load{pause: around(400 * time.Millisecond)},
		claims: func(r *report.Result, by map[string]*figures) {
			r.AtMost("sick/age-connections", "closing by age: connections of `upstreampool`, of those of `transport http`",
				float64(by[ours].opened)/float64(by[stock].opened), 1.5)
			none(r, by, "sick/age-failed", "closing by age: failed requests of `upstreampool`")
		},
	},
	{
		name: "serial", quiet: true, last: 60 * time.Second, quick: 30 * time.Second,
		text: "**One connection at a time.** A server that looks at a connection only when the one before is closed, as Python's " +
			"`http.server` does; one client with pauses of up to 1.5 s",
		fleet: one(func(_ *fleet, l *fake.Listener) error {
			l.ServeWorkers(1)
			return nil
		}),
		load: load{pause: around(time.Second), serial: true},
		claims: func(r *report.Result, by map[string]*figures) {
			none(r, by, "sick/serial-failed", "one connection at a time: failed requests of `upstreampool`")
			most(r, by, "sick/serial-longest", "one connection at a time: the longest request of `upstreampool`, s", longest, 3)
		},
	},
	{
		name: "dns", quiet: true, without: []string{nginx}, last: 30 * time.Second, quick: 20 * time.Second,
		text: fmt.Sprintf("**DNS moves.** The upstream's name gets another address after 10 s. The old server goes on, and answers 410 (Gone) from %v later on; "+
			"20 requests/s; `follow_dns %v`, `resolvers` in HAProxy; nginx looks names up once", 4*followed, followed),
		fleet: moving(10*time.Second, 4*followed),
		load:  load{pause: every(50 * time.Millisecond)},
		claims: func(r *report.Result, by map[string]*figures) {
			none(r, by, "sick/dns", "DNS moves: requests of `upstreampool` that fail, or go to the old address four intervals later")
		},
	},
	{
		name: "forgotten", quiet: true, plot: true, last: 90 * time.Second, quick: 30 * time.Second,
		text: fmt.Sprintf("**Silent drops.** Between proxy and servers stands a box that forgets connections that have been idle for %v, and then drops "+
			"what comes on them; %d servers, asked every 2 s, give or take one", forgetsAfter, forgetters),
		fleet: forgetful(forgetters, forgetsAfter),
		load:  load{pause: around(2 * time.Second / forgetters)},
		claims: func(r *report.Result, by map[string]*figures) {
			// Those sent on idle connections until the first has been given up; then, now and
			// then, one on a connection that is younger than that was, and forgotten as well.
			limit := 3 + len(by[ours].sent)/forgetters/20
			most(r, by, "sick/forgotten", "silent drops: requests of `upstreampool` above 3 s to one server, the most", func(f *figures) float64 {
				return float64(slices.Max(f.longer(3*time.Second, forgetters)))
			}, float64(limit))
			if len(by[ours].after(knownAfter).sent) > 0 { // not in a quick run
				text := fmt.Sprintf("silent drops: requests of `upstreampool` above 3 s once it has had %v to find out, per 100", knownAfter)
				most(r, by, "sick/forgotten-later", text, func(f *figures) float64 {
					later := f.after(knownAfter)
					return 100 * float64(later.longer(3*time.Second, 1)[0]) / float64(len(later.sent))
				}, 1)
			}
		},
	},
	{
		name: "late", quiet: true, maxIdle: 8 * time.Second, last: 90 * time.Second, quick: 30 * time.Second,
		text: fmt.Sprintf("**Late silent drops.** As before, but the box forgets connections that have been idle for %v, which is more than is assumed of an "+
			"unknown upstream; bursts of %d requests, 2.5 to 7.5 s apart. `keepalive 8s` in Caddy: a connection that has been idle for so long, and silent, is no proof "+
			"that others may be", forgetsLate, forgetters),
		fleet: forgetful(forgetters, forgetsLate),
		load:  load{pause: around(5 * time.Second), burst: forgetters},
		claims: func(r *report.Result, by map[string]*figures) {
			none(r, by, "sick/late-failed", "late silent drops: failed requests of `upstreampool`")
			most(r, by, "sick/late-longest", "late silent drops: the longest request of `upstreampool`, s", longest, 2)
		},
	},
}

// followed is how often names are looked up.
const followed = time.Second

// The box that forgets, early or late, and the servers behind it.
const (
	forgetsAfter = 2 * time.Second
	forgetsLate  = 5 * time.Second
	forgetters   = 10
)

// knownAfter is when the box should be known.
const knownAfter = time.Minute

func perThousand(f *figures) float64 { return 1000 * float64(f.failed) / float64(len(f.sent)) }

func longest(f *figures) float64 { return f.quantile(1).Seconds() }

// none claims that no request fails.
func none(r *report.Result, by map[string]*figures, name, text string) {
	c := r.None(name, text, by[ours].failed, len(by[ours].sent))
	besides(c, by, func(f *figures) float64 { return float64(f.failed) })
}

// most claims that a figure is no larger than a limit.
func most(r *report.Result, by map[string]*figures, name, text string, of func(*figures) float64, limit float64) {
	besides(r.AtMost(name, text, of(by[ours]), limit), by, of)
}

// besides says what the same figure is of the other proxies.
func besides(c *report.Claim, by map[string]*figures, of func(*figures) float64) {
	for _, name := range names {
		if f := by[name]; f != nil && name != ours {
			c.With(name, of(f))
		}
	}
}
