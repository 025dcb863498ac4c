package sick

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
)

// measured returns figures of 1000 requests in 100 s that took so long, of which some failed.
func measured(took time.Duration, failed, opened int) *figures {
	f := &figures{opened: opened, faults: 10}
	var sent []request
	for i := range 1000 {
		sent = append(sent, request{number: i, began: time.Duration(i) * 100 * time.Millisecond, took: took, failed: i < failed})
	}
	f.add(sent)
	return f
}

// Each claim holds for a proxy that does well, and is named for one whose requests wait,
// fail, and take a connection each.
func TestClaimsNotice(t *testing.T) {
	stocks := measured(time.Millisecond, 0, 100)
	for _, c := range troubles {
		var well, ill report.Result
		c.claims(&well, map[string]*figures{ours: measured(time.Millisecond, 0, 100), stock: stocks})
		c.claims(&ill, map[string]*figures{ours: measured(5*time.Second, 500, 900), stock: stocks})
		if broken := well.Broken(); len(broken) > 0 {
			t.Errorf("%s: does not hold although all is well: %v", c.name, broken)
		}
		for _, claim := range ill.Claims {
			if claim.Holds && claim.Name != "sick/silent-met" { // that the fault was there
				t.Errorf("%s holds with %s", claim.Name, claim.Value)
			}
			if !strings.HasPrefix(claim.Name, "sick/"+c.name) {
				t.Errorf("%s is no claim of %s", claim.Name, c.name)
			}
		}
		if len(ill.Claims) == 0 {
			t.Errorf("%s claims nothing", c.name)
		}
	}
}

// A silent backend that nobody met shows nothing.
func TestSilentBackendMustBeMet(t *testing.T) {
	i := slices.IndexFunc(troubles, func(c trouble) bool { return c.name == "silent" })
	f := measured(time.Millisecond, 0, 100)
	f.faults = 0
	var r report.Result
	troubles[i].claims(&r, map[string]*figures{ours: f})
	if broken := r.Broken(); len(broken) != 1 || broken[0].Name != "sick/silent-met" {
		t.Errorf("broken claims: %v", broken)
	}
}

func TestFigures(t *testing.T) {
	var f figures
	var sent []request
	for ms := range 1000 {
		sent = append(sent, request{number: ms, took: time.Duration(999-ms) * time.Millisecond, failed: ms%10 == 0})
	}
	f.add(sent)
	f.opened = 250
	if got := []time.Duration{f.quantile(0), f.quantile(0.5), f.quantile(0.99), f.quantile(1)}; !slices.Equal(got,
		[]time.Duration{0, 500 * time.Millisecond, 990 * time.Millisecond, 999 * time.Millisecond}) {
		t.Errorf("quantiles: %v", got)
	}
	if f.failed != 100 || f.each() != 0.25 {
		t.Errorf("%d failed, %v connections each", f.failed, f.each())
	}
	if got := measured(time.Second, 0, 1).after(90 * time.Second); len(got.sent) != 99 {
		t.Errorf("%d of 1000 requests after 90 of 100 s", len(got.sent))
	}
	// The slowest are the first, and servers take turns.
	if got := f.longer(996*time.Millisecond, 4); !slices.Equal(got, []int{1, 1, 1, 0}) {
		t.Errorf("longer, by server: %v", got)
	}
}
