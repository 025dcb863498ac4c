package coldstart

import (
	"slices"
	"testing"
	"time"
)

// Each claim is named if what it is about happens.
func TestClaims(t *testing.T) {
	for _, test := range []struct {
		broken string
		change func(on, off *figures)
	}{
		{"", func(*figures, *figures) {}},
		{"failed", func(on, _ *figures) { on.failed = 1 }},
		{"failed", func(on, _ *figures) { on.sent, on.opened = 0, 0 }},
		{"known", func(on, _ *figures) { on.assumed = 5 * time.Second }},
		{"connections", func(on, _ *figures) { on.opened = 60 }},
		{"control", func(_, off *figures) { off.assumed = time.Second }},
	} {
		found := map[string]*figures{
			on:    {sent: 150, opened: 20, assumed: 100 * time.Millisecond},
			off:   {sent: 150, opened: 25, assumed: 6 * time.Second},
			stock: {sent: 150, opened: 15, failed: 2},
		}
		test.change(found[on], found[off])
		var want []string
		if test.broken != "" {
			want = []string{"coldstart/" + test.broken}
		}
		if broken := result(found, 3, time.Minute).BrokenNames(); !slices.Equal(broken, want) {
			t.Errorf("%q: broken claims %v", test.broken, broken)
		}
	}
}
