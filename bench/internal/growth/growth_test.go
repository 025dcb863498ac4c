package growth

import (
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// What grows with the square is named; what grows in proportion is not, nor what
// stock makes grow by itself.
func TestClaims(t *testing.T) {
	sizes := []int{10, 1000, 2500, 10_000}
	costs := func(of func(n float64) float64) (all []cost) {
		for _, n := range sizes {
			all = append(all, cost{of(float64(n)), of(float64(n)), 10 * of(float64(n))})
		}
		return all
	}
	linear := costs(func(n float64) float64 { return 0.05 + n/1000 })
	square := costs(func(n float64) float64 { return 0.05 + n*n/1e6 })
	for _, test := range []struct {
		name        string
		ours, stock []cost
		broken      int
	}{
		{"in proportion", linear, linear, 0},
		{"square", square, linear, len(units)},
		{"square, as stock", square, square, 0},
	} {
		d := dimension{name: "things", what: "things"}
		var r report.Result
		d.claims(&r, report.Options{}, sizes, map[bool][]cost{true: test.ours, false: test.stock})
		broken := r.Broken()
		if len(broken) != test.broken {
			t.Errorf("%s: broken claims %v, want %d", test.name, broken, test.broken)
		}
		for _, c := range broken {
			if !strings.HasPrefix(c.Name, "growth/things-") {
				t.Errorf("%s: %s", test.name, c.Name)
			}
		}
	}
}
