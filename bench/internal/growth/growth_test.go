package growth

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// What grows with the square is named, and what is slow although it grows in proportion.
// What grows in proportion otherwise is not, nor what stock makes grow by itself.
func TestClaims(t *testing.T) {
	sizes := []int{10, 1000, 2500, 10_000}
	costs := func(of func(n float64) float64) (all []cost) {
		for _, n := range sizes {
			all = append(all, cost{of(float64(n)), of(float64(n)), 10 * of(float64(n))})
		}
		return all
	}
	linear := costs(func(n float64) float64 { return 0.05 + n/5000 })
	slow := costs(func(n float64) float64 { return 0.2 + n/1800 })
	square := costs(func(n float64) float64 { return 0.05 + n*n/5e7 })
	for _, test := range []struct {
		name        string
		ours, stock []cost
		broken      []string
	}{
		{"in proportion", linear, linear, nil},
		{"slow", slow, linear, []string{"seconds", "stock"}},
		{"square", square, linear, units},
		{"square, as stock", square, square, nil},
	} {
		d := dimension{name: "things", what: "things"}
		var r report.Result
		d.claims(&r, report.Options{}, sizes, map[bool][]cost{true: test.ours, false: test.stock})
		var broken []string
		for _, c := range r.Broken() {
			broken = append(broken, strings.TrimPrefix(c.Name, "growth/things-"))
		}
		if !slices.Equal(broken, test.broken) {
			t.Errorf("%s: broken claims %v, want %v", test.name, broken, test.broken)
		}
	}
}
