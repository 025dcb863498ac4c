package speed

import (
	"math"
	"slices"
	"testing"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// times returns what takes a time in each round, give or take a share of it.
func times(median, spread float64) (rounds []float64) {
	for _, share := range []float64{0.3, -1, 0, 0.8, -0.3, 1, -0.6, 0.1, -0.1} {
		rounds = append(rounds, median*(1+share*spread))
	}
	return rounds
}

// Longer waits are named, and what differs from round to round as much as two of stock do
// is not; but it excuses no more than a half.
func TestLoadClaims(t *testing.T) {
	turned := func(rounds []float64) []float64 { return slices.Concat(rounds[1:], rounds[:1]) }
	for _, test := range []struct {
		name      string
		wait, p99 float64 // of ours, where stock's are 10; ms for 1000 requests, and ms
		p50       float64 // ms
		spread    float64
		broken    []string
	}{
		{"as stock", 10, 10, 0.1, 0.1, nil},
		{"quicker", 5, 5, 0.1, 0.1, nil},
		{"a little slower than chance allows", 11.5, 10, 0.1, 0.02, []string{"speed/locks"}},
		{"a little slower, and much chance", 11, 10, 0.1, 0.4, nil},
		{"slower than chance may excuse", 22, 10, 0.1, 0.8, []string{"speed/locks"}},
		{"as slow, but little beside a request", 22, 10, 10, 0.8, nil},
		{"a longer tail", 10, 13, 0.1, 0.02, []string{"speed/p99"}},
	} {
		its := times(10, test.spread)
		found := map[string]*figures{
			ours:  {p99: times(test.p99, test.spread), wait: times(test.wait, test.spread)},
			stock: {p99: its, wait: its, p50: times(test.p50, 0)},
			again: {p99: turned(its), wait: turned(its), p50: times(test.p50, 0)},
		}
		var r report.Result
		addLoadClaims(&r, report.Options{}, "speed/", "load: ", found)
		if broken := r.BrokenNames(); !slices.Equal(broken, test.broken) {
			t.Errorf("%s: broken claims %v, want %v of %v", test.name, broken, test.broken, r.Claims)
		}
	}
}

// Equals that are equal in each round leave nothing to chance, and more rounds leave less.
func TestChance(t *testing.T) {
	if got := chance([]float64{1, 1, 1}); got != 1 {
		t.Errorf("of equals: %v", got)
	}
	few := []float64{1.1, 1 / 1.1, 1.1, 1 / 1.1}
	if got, want := chance(few), math.Pow(1.1, 2*1.4826*1.2533/2); math.Abs(got-want) > 1e-9 {
		t.Errorf("of four: %v, want %v", got, want)
	}
	if many := slices.Repeat(few, 9); chance(many) >= chance(few) {
		t.Errorf("of many: %v, of few: %v", chance(many), chance(few))
	}
}
