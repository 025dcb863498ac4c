package idletime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// Traffic of different kinds.
var (
	simPoller = simTraffic{gap: uniform(950*time.Millisecond, 1050*time.Millisecond), burst: 1}
	simSlow   = simTraffic{gap: uniform(4800*time.Millisecond, 5200*time.Millisecond), burst: 1}
	simSteady = simTraffic{gap: exponential(time.Second), burst: 1}
	simBursts = simTraffic{gap: exponential(2500 * time.Millisecond), burst: 4}
)

func (t simTraffic) of(requests int, posts float64) simTraffic {
	t.requests, t.posts = requests, posts
	return t
}

// simShort has simulations be shorter. They are one goroutine each, of which the race
// detector has nothing to say.
func simShort() bool { return testing.Short() || race.Enabled }

func simRequests(n int) int {
	if simShort() {
		return n / 5
	}
	return needs.InLong(n, n/3)
}

// An address may stand for servers with different timeouts: no POST meets a close,
// from the first request on.
//
// Checklist: P6, P14.
func TestSimulatedMixedServers(t *testing.T) {
	const s = time.Second
	for _, timeouts := range [][]time.Duration{
		{s, 5 * s, 20 * s, 75 * s}, {2 * s, 60 * s}, {3 * s, 0}, {5 * s}, {75 * s},
	} {
		for name, traffic := range map[string]simTraffic{"poller": simPoller, "slow": simSlow, "steady": simSteady, "bursts": simBursts} {
			t.Run(fmt.Sprint(timeouts, name), func(t *testing.T) {
				sim := simulate(2, simServer{timeouts: timeouts}, traffic.of(simRequests(10000), 1), true)
				if sim.failed > 0 {
					t.Errorf("%d of %d POSTs failed; %v", sim.failed, sim.posts, sim.limit())
				}
			})
		}
	}
}

// A server with one timeout is found out, and its connections are reused nearly as
// by a pool that knows no limit.
func TestSimulatedTimeouts(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	for _, tc := range []struct {
		name   string
		server simServer
		want   time.Duration
	}{
		{"5 s", simServer{timeouts: []time.Duration{5 * s}}, 5 * s},
		{"75 s", simServer{timeouts: []time.Duration{75 * s}}, 75 * s},
		{"2 s, up to 200 ms late", simServer{timeouts: []time.Duration{2 * s}, late: uniform(0, 200*ms)}, 2 * s},
		{"never", simServer{timeouts: []time.Duration{0}}, 2 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			traffic := simBursts.of(simRequests(10000), 0.5)
			ours, stock := simulate(3, tc.server, traffic, true), simulate(3, tc.server, traffic, false)
			if l := ours.limit(); l.Source != SourceLearned || !SameAge(l.KeepAlive, tc.want) {
				t.Errorf("limit = %v, want %v learned", l, tc.want)
			}
			if ours.conns > stock.conns*5/4+100 {
				t.Errorf("%d connections, want about %d", ours.conns, stock.conns)
			}
		})
	}
}

// Connections that end by their age, at random or by restarts teach no timeout, and
// in the long run cost few connections more than without any limit.
func TestSimulatedClosesThatAreNoTimeout(t *testing.T) {
	const s = time.Second
	never := []time.Duration{0}
	for _, tc := range []struct {
		name   string
		server simServer
		// The age of connections. It may be taken for a timeout once: connections
		// that were used once do not tell the one from the other.
		age  time.Duration
		most float64 // connections, as a multiple of a pool without limits
	}{
		{"age of 30 s and 10 % either way", simServer{timeouts: never, life: uniform(27*s, 33*s)}, 30 * s, 1.5},
		{"age of exactly 30 s", simServer{timeouts: never, life: every(30 * s)}, 30 * s, 1.5},
		{"age of 5 minutes", simServer{timeouts: never, life: uniform(270*s, 330*s)}, 300 * s, 1.5},
		{"at random, 30 s on average", simServer{timeouts: never, life: exponential(30 * s)}, 0, 1.5},
		{"restarts every 2 minutes", simServer{timeouts: never, restarts: exponential(120 * s)}, 0, 3.5},
	} {
		for name, traffic := range map[string]simTraffic{"poller": simPoller, "slow": simSlow, "steady": simSteady, "bursts": simBursts} {
			t.Run(tc.name+"/"+name, func(t *testing.T) {
				n := 20000
				if name == "slow" {
					n = 5000
				}
				traffic := traffic.of(simRequests(n), 0)
				ours, stock := simulate(4, tc.server, traffic, true), simulate(4, tc.server, traffic, false)
				t.Logf("%d connections, %d without a limit; %v", ours.conns, stock.conns, ours.limit())
				if taught := ours.falselyTaught(); len(taught) > 0 && (tc.age == 0 || len(taught) > 1 || !SameAge(taught[0], tc.age)) {
					t.Errorf("taught %v", taught)
				}
				const learning = 50 // connections
				if !simShort() && float64(ours.conns) > tc.most*float64(stock.conns)+learning {
					t.Errorf("%d connections, want at most %v times %d, and %d", ours.conns, tc.most, stock.conns, learning)
				}
			})
		}
	}
}

// Closes at random that come often agree in age now and then. What that teaches does
// not last, whatever chance has it.
func TestSimulatedClosesAtRandom(t *testing.T) {
	server := simServer{timeouts: []time.Duration{0}, life: exponential(1500 * time.Millisecond)}
	uneven := func(r *rand.Rand) time.Duration { // to 1.6 s
		return time.Duration(float64(100*time.Millisecond) * math.Pow(16, r.Float64()))
	}
	traffic := simTraffic{gap: uneven, burst: 1}
	traffic = traffic.of(400, 0)
	for seed := range uint64(race.Fewer(200)) {
		ours, stock := simulate(seed, server, traffic, true), simulate(seed, server, traffic, false)
		if most := stock.conns*3/2 + 10; ours.conns > most {
			t.Errorf("seed %d: %d connections, want at most 1.5 times %d and 10; %v", seed, ours.conns, stock.conns, ours.limit())
		}
	}
}

// An upstream that closes right after each response without saying so: after twenty
// connections POSTs meet no more closes than looks are worth.
func TestSimulatedUpstreamThatClosesAtOnce(t *testing.T) {
	server := simServer{timeouts: []time.Duration{300 * time.Microsecond}}
	traffic := simTraffic{gap: uniform(5*time.Millisecond, 8*time.Millisecond), burst: 1}
	sim := simulate(5, server, traffic.of(simRequests(20000), 1), true)
	if sim.limit().Bound != BoundAtOnce || sim.failed > 20 {
		t.Errorf("%d of %d POSTs failed; %v", sim.failed, sim.posts, sim.limit())
	}
}
