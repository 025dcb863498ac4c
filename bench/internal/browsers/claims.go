package browsers

import (
	"fmt"
	"math"
	"slices"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/internal/test/browser"
)

// found are all visits, by browser and scenario.
type found map[string]map[string]seen

// has tells that a scenario was measured: a quick run leaves some out.
func (f found) has(s scenario) bool { return f[browser.Firefox.Name][s.name] != nil }

// total adds up a number of all visits in scenarios.
func (f found) total(of func(browser.Visit) int, browsers []browser.Browser, scenarios ...scenario) (n float64) {
	for _, b := range browsers {
		for _, s := range scenarios {
			n += float64(sum(f[b.Name][s.name].each(of)))
		}
	}
	return n
}

// part are the visits that are left of each browser and scenario.
func (f found) part(of func(seen) seen) found {
	rest := make(found)
	for browser, scenarios := range f {
		rest[browser] = make(map[string]seen)
		for name, visits := range scenarios {
			rest[browser][name] = of(visits)
		}
	}
	return rest
}

// most and least are those of a number in the visits of a browser in a scenario. They are
// met by no limit where there was no visit.
func (f found) most(of func(browser.Visit) int, b browser.Browser, s scenario) float64 {
	values := f[b.Name][s.name].each(of)
	if len(values) == 0 {
		return math.Inf(1)
	}
	return float64(slices.Max(values))
}

func (f found) least(of func(browser.Visit) int, b browser.Browser, s scenario) float64 {
	values := f[b.Name][s.name].each(of)
	if len(values) == 0 {
		return math.Inf(-1)
	}
	return float64(slices.Min(values))
}

// addClaims adds the claims on the scenarios that were measured, with so many visits each.
func addClaims(r *report.Result, all found, visits int) {
	measured := func(scenarios ...scenario) []scenario {
		return slices.DeleteFunc(scenarios, func(s scenario) bool { return !all.has(s) })
	}
	firefox, chromium := []browser.Browser{browser.Firefox}, []browser.Browser{browser.Chromium}
	last := all.part(seen.last)
	beside := func(c *report.Claim, of func(browser.Visit) int, browsers []browser.Browser, s scenario) {
		if all.has(s) {
			c.With(s.name, all.total(of, browsers, s))
		}
	}
	c := r.AtMost("browsers/421s-with-origin", fmt.Sprintf("HTTP/3 on, exact SNI matching with ORIGIN frames: 421s of %d visits with Firefox", visits),
		all.total(refusals, firefox, exactFrames), 0)
	beside(c, refusals, firefox, strictSNI)
	c = r.AtMost("browsers/chromium-h3", "exact SNI matching: 421s on HTTP/3 with Chromium, from the second visit on",
		all.part(seen.after).total(refusalsHTTP3, chromium, exactFrames), 0)
	beside(c, refusalsHTTP3, chromium, strictSNI)
	c = r.AtMost("browsers/foreign", "exact SNI matching: requests answered on a connection for another host, both browsers",
		all.total(foreign, both, measured(exact, exactFrames, exactApart)...), 0)
	beside(c, foreign, both, open)
	r.AtMost("browsers/http3-frames", "four addresses, ORIGIN frames on HTTP/3: QUIC connections of Chromium's last visit, the most",
		last.most(connections(http3), browser.Chromium, http3Apart), 1)
	r.AtLeast("browsers/http3-used", "`scope certificate`: requests on HTTP/3 of Chromium's last visit, the least",
		last.least(onHTTP3, browser.Chromium, http3Apart), 1)
	certificate := measured(covered, coveredHTTP3, coveredApart, http3Apart)
	r.AtMost("browsers/certificate", "`scope certificate` and ORIGIN frames: 421s, both browsers", all.total(refusals, both, certificate...), 0)
	framed := append(measured(exactFrames, exactApart), certificate...)
	r.AtMost("browsers/broken", "the gate with ORIGIN frames: images that stay broken, both browsers", all.total(broken, both, framed...), 0)
	planned := len(both) * len(framed) * visits
	r.AtMost("browsers/lost", fmt.Sprintf("the gate with ORIGIN frames: visits lost, both browsers, of %d", planned), float64(planned)-all.total(itself, both, framed...), 0)
	if !all.has(open) {
		return // a quick run
	}
	r.AtMost("browsers/apart", "four addresses, exact SNI matching with ORIGIN frames: 421s, both browsers", all.total(refusals, both, exactApart), 0)
	r.AtLeast("browsers/control-foreign", "control: without a gate: requests answered on a connection for another host, both browsers", all.total(foreign, both, open), 1)
	r.AtLeast("browsers/control-frames", "control: without ORIGIN frames: 421s of all visits with Firefox", all.total(refusals, firefox, exact), 1)
	r.AtLeast("browsers/control-alt-svc", "control: `alt_svc keep`: 421s on HTTP/3 of Chromium's last visits", last.total(refusalsHTTP3, chromium, keep), 1)
	r.AtLeast("browsers/control-stock", "control: stock `strict_sni_host on`: 421s on HTTP/3 of Chromium's last visits", last.total(refusalsHTTP3, chromium, strictSNI), 1)
	r.AtLeast("browsers/control-http3-frames", "control: four addresses, no frames on HTTP/3: QUIC connections of Chromium's last visit, the least",
		last.least(connections(http3), browser.Chromium, coveredApart), 2)
}
