package browsers

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/internal/test/browser"
)

const sessions, visitsEach = 2, 3

// visited are visits of all scenarios, each as change makes it.
func visited(chosen []scenario, change func(b browser.Browser, s scenario, number int, v *browser.Visit)) found {
	all := make(found)
	for _, b := range both {
		all[b.Name] = make(map[string]seen)
		for _, s := range chosen {
			for range sessions {
				var session []browser.Visit
				for number := range visitsEach {
					v := browser.Visit{
						Connections: map[string][]string{http3 + " 1": hosts}, Protocols: map[string]int{http3: 17},
						Statuses: make(map[int]int), Refused: make(map[string]int), Done: true, Load: 100 * time.Millisecond,
					}
					change(b, s, number, &v)
					if v.Done {
						session = append(session, v)
					}
				}
				all[b.Name][s.name] = append(all[b.Name][s.name], session)
			}
		}
	}
	return all
}

// well is how browsers do it.
func well(b browser.Browser, s scenario, _ int, v *browser.Visit) {
	switch s {
	case open:
		v.Foreign = 12
	case exact:
		refuse(v, http2)
	case strictSNI, keep:
		refuse(v, http3)
	case coveredApart:
		v.Connections = map[string][]string{http3 + " 1": hosts[:1], http3 + " 2": hosts[1:]}
	}
}

func refuse(v *browser.Visit, protocol string) {
	v.Statuses[421]++
	v.Refused[protocol]++
}

// Each claim is named if what it is about happens, in a quick run as well where it is
// made there.
func TestClaims(t *testing.T) {
	quickly := slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !s.quick })
	for _, test := range []struct {
		broken string
		quick  bool
		change func(b browser.Browser, s scenario, number int, v *browser.Visit)
	}{
		{"", true, well},
		{"421s-with-origin", true, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == exactFrames && b.Name == browser.Firefox.Name && number == 0 {
				refuse(v, http2)
			}
		}},
		{"chromium-h3", true, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == exactFrames && b.Name == browser.Chromium.Name && number == 1 {
				refuse(v, http3)
			}
		}},
		{"foreign", true, func(_ browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == exactFrames && number == 2 {
				v.Foreign = 1
			}
		}},
		{"http3-frames", true, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == http3Apart && b.Name == browser.Chromium.Name && number == 2 {
				v.Connections[http3+" 2"] = hosts[:1]
			}
		}},
		{"http3-used", true, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == http3Apart && b.Name == browser.Chromium.Name && number == 2 {
				v.Protocols = map[string]int{http2: 17}
			}
		}},
		{"certificate", true, func(_ browser.Browser, s scenario, _ int, v *browser.Visit) {
			if s == http3Apart {
				refuse(v, http2)
			}
		}},
		{"broken", true, func(_ browser.Browser, s scenario, _ int, v *browser.Visit) {
			if s == exactFrames {
				v.Broken = 1
			}
		}},
		{"lost", true, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == http3Apart && b.Name == browser.Firefox.Name && number == 1 {
				v.Done = false
			}
		}},
		{"apart", false, func(_ browser.Browser, s scenario, number int, v *browser.Visit) {
			if s == exactApart && number == 0 {
				refuse(v, http2)
			}
		}},
		{"control-foreign", false, func(_ browser.Browser, s scenario, _ int, v *browser.Visit) {
			if s == open {
				v.Foreign = 0
			}
		}},
		{"control-frames", false, harmless(exact)},
		{"control-alt-svc", false, harmless(keep)},
		{"control-stock", false, harmless(strictSNI)},
		{"control-http3-frames", false, func(_ browser.Browser, s scenario, _ int, v *browser.Visit) {
			if s == coveredApart {
				v.Connections = map[string][]string{http3 + " 1": hosts}
			}
		}},
	} {
		for name, chosen := range map[string][]scenario{"full": scenarios, "quick": quickly} {
			var want []string
			if test.broken != "" && (test.quick || name == "full") {
				want = []string{"browsers/" + test.broken}
			}
			var r report.Result
			addClaims(&r, visited(chosen, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
				well(b, s, number, v)
				test.change(b, s, number, v)
			}), sessions*visitsEach)
			if broken := r.BrokenNames(); !slices.Equal(broken, want) {
				t.Errorf("%s, %s: broken claims %v, want %v", test.broken, name, broken, want)
			}
		}
	}
}

// harmless takes the refusals from a scenario.
func harmless(without scenario) func(browser.Browser, scenario, int, *browser.Visit) {
	return func(_ browser.Browser, s scenario, _ int, v *browser.Visit) {
		if s == without {
			clear(v.Statuses)
			clear(v.Refused)
		}
	}
}

// The table has a row for each browser in each scenario, also for one that lost all visits.
func TestTable(t *testing.T) {
	var r report.Result
	addTable(&r, []scenario{exact, open}, visited([]scenario{exact, open}, func(b browser.Browser, s scenario, number int, v *browser.Visit) {
		well(b, s, number, v)
		v.Done = s == open || b.Name == browser.Firefox.Name
		v.Load = time.Duration(100+number) * time.Millisecond
	}), sessions*visitsEach)
	var got []string
	for _, row := range r.Tables[0].Rows {
		got = append(got, strings.Join(row, "|"))
	}
	if want := []string{
		"1. scope sni, no frames|Firefox|0 of 6|0|1|1|0|0|0|101|102",
		"|Chromium|6 of 6||||||||",
		"2. no gate, no frames|Firefox|0 of 6|0|1|0|0|12|0|101|102",
		"|Chromium|0 of 6|0|1|0|0|12|0|101|102",
	}; !slices.Equal(got, want) {
		t.Errorf("rows:\n%s", strings.Join(got, "\n"))
	}
	for _, p := range r.Plots {
		if len(p.Labels) != 3 || len(p.Series[0].Points) != 3 || len(p.Series[1].Points) != 3 {
			t.Errorf("%s has bars for %v", p.Name, p.Labels)
		}
	}
}
