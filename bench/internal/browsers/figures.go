package browsers

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/internal/test/browser"
)

const (
	http2 = "HTTP/2.0"
	http3 = "HTTP/3.0"
)

// each returns a number of each visit.
func (s seen) each(of func(browser.Visit) int) (values []int) {
	for _, session := range s {
		for _, v := range session {
			values = append(values, of(v))
		}
	}
	return values
}

// after returns the sessions without their first visit.
func (s seen) after() seen {
	var rest seen
	for _, session := range s {
		rest = append(rest, session[min(1, len(session)):])
	}
	return rest
}

// last returns the last visit of each session.
func (s seen) last() seen {
	var rest seen
	for _, session := range s {
		rest = append(rest, session[max(0, len(session)-1):])
	}
	return rest
}

func connections(protocol string) func(browser.Visit) int {
	return func(v browser.Visit) (n int) {
		for c := range v.Connections {
			if strings.HasPrefix(c, protocol+" ") {
				n++
			}
		}
		return n
	}
}

func refusals(v browser.Visit) int      { return v.Statuses[421] }
func refusalsHTTP3(v browser.Visit) int { return v.Refused[http3] }
func foreign(v browser.Visit) int       { return v.Foreign }
func broken(v browser.Visit) int        { return v.Broken }
func onHTTP3(v browser.Visit) int       { return v.Protocols[http3] }
func load(v browser.Visit) int          { return int(v.Load.Milliseconds()) }

func sum(values []int) (n int) {
	for _, v := range values {
		n += v
	}
	return n
}

// addTable adds table and plot.
func addTable(result *report.Result, chosen []scenario, measured map[string]map[string]seen, visits int) {
	table := report.Table{
		Title: "Connections that carried requests of a visit, by protocol, and 421s of a visit, also those of HTTP/3 alone: medians, and least and most where they differ. " +
			"On another's: requests answered on a connection for another host, where a backend that is chosen by SNI (`example/two-sites`) gives the wrong page. " +
			"Broken images are those of all visits. Load is the time until all images are there, median and worst. A visit is lost where the browser stays with an error page:",
		Columns: []string{"served with", "browser", "visits lost", "h2", "h3", "421s", "421s on h3", "on another's", "broken images", "load, ms", "worst"},
	}
	plot := report.Plot{Name: "browsers", Title: "421s of a visit, per browser and scenario", Y: "421s", Bars: true,
		X: "browser (Firefox, Chromium) and row of the table", Series: []report.Series{{Name: "median"}, {Name: "most"}}}
	for n, s := range chosen {
		for i, b := range both {
			f := measured[b.Name][s.name]
			title := ""
			if i == 0 {
				title = fmt.Sprintf("%d. %s", n+1, s.name)
			}
			loads := f.each(load)
			lost := fmt.Sprintf("%d of %d", visits-len(loads), visits)
			if len(loads) == 0 {
				table.Rows = append(table.Rows, []string{title, b.Name, lost, "", "", "", "", "", "", "", ""})
				continue
			}
			table.Rows = append(table.Rows, []string{title, b.Name, lost, spread(f.each(connections(http2))), spread(f.each(connections(http3))),
				spread(f.each(refusals)), spread(f.each(refusalsHTTP3)), spread(f.each(foreign)), fmt.Sprint(sum(f.each(broken))),
				fmt.Sprint(report.Median(loads)), fmt.Sprint(slices.Max(loads))})
			x := float64(len(plot.Labels))
			plot.Labels = append(plot.Labels, fmt.Sprintf("%s %d", b.Name[:2], n+1))
			plot.Series[0].Points = append(plot.Series[0].Points, [2]float64{x, float64(report.Median(f.each(refusals)))})
			plot.Series[1].Points = append(plot.Series[1].Points, [2]float64{x, float64(slices.Max(f.each(refusals)))})
		}
	}
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, plot)
}

// addClaims adds the claims on the scenarios that were measured.
func addClaims(result *report.Result, measured map[string]map[string]seen, visits int) {
	firefox, chromium := measured[browser.Firefox.Name], measured[browser.Chromium.Name]
	if f := firefox[exactFrames.name]; f != nil {
		result.AtMost("browsers/421s-with-origin", fmt.Sprintf("HTTP/3 on, exact SNI matching with ORIGIN frames: 421s of %d visits with Firefox", visits), float64(sum(f.each(refusals))), 0)
		c := chromium[exactFrames.name]
		result.AtMost("browsers/lost", fmt.Sprintf("exact SNI matching with ORIGIN frames: visits lost, both browsers, of %d", 2*visits), float64(2*visits-len(f.each(load))-len(c.each(load))), 0)
		result.AtMost("browsers/chromium-h3", "exact SNI matching: 421s on HTTP/3 with Chromium, from the second visit on", float64(sum(c.after().each(refusalsHTTP3))), 0)
		result.AtMost("browsers/foreign", "exact SNI matching: requests answered on a connection for another host, both browsers", float64(sum(f.each(foreign))+sum(c.each(foreign))), 0)
		result.AtMost("browsers/broken", "exact SNI matching with ORIGIN frames: images that stay broken, both browsers", float64(sum(f.each(broken))+sum(c.each(broken))), 0)
	}
	if c := chromium[http3Apart.name]; c != nil {
		result.AtMost("browsers/http3-frames", "four addresses, ORIGIN frames on HTTP/3: QUIC connections of Chromium's last visit, the most", most(c.last().each(connections(http3))), 1)
		result.AtLeast("browsers/http3-used", "`scope certificate`: requests on HTTP/3 of Chromium's last visit, the least", least(c.last().each(onHTTP3)), 1)
	}
	if measured[browser.Firefox.Name][open.name] == nil {
		return // a quick run
	}
	result.AtMost("browsers/certificate", "`scope certificate` and ORIGIN frames, with `http3` and without, one address and four: 421s, both browsers", func() (n float64) {
		for _, s := range []scenario{covered, coveredHTTP3, coveredApart, http3Apart} {
			n += float64(sum(firefox[s.name].each(refusals)) + sum(chromium[s.name].each(refusals)))
		}
		return n
	}(), 0)
	result.AtLeast("browsers/control-foreign", "control: without a gate: requests answered on a connection for another host, both browsers",
		float64(sum(firefox[open.name].each(foreign))+sum(chromium[open.name].each(foreign))), 1)
	result.AtLeast("browsers/control-frames", "control: without ORIGIN frames: 421s of all visits with Firefox", float64(sum(firefox[exact.name].each(refusals))), 1)
	result.AtLeast("browsers/control-alt-svc", "control: `alt_svc keep`: 421s on HTTP/3 of Chromium's last visits", float64(sum(chromium[keep.name].last().each(refusalsHTTP3))), 1)
	result.AtLeast("browsers/control-stock", "control: stock `strict_sni_host on`: 421s on HTTP/3 of Chromium's last visits", float64(sum(chromium[strictSNI.name].last().each(refusalsHTTP3))), 1)
	result.AtLeast("browsers/control-http3-frames", "control: four addresses, no frames on HTTP/3: QUIC connections of Chromium's last visit, the least",
		least(chromium[coveredApart.name].last().each(connections(http3))), 2)
}

// most and least are not met where nothing was measured.
func most(values []int) float64 {
	if len(values) == 0 {
		return math.Inf(1)
	}
	return float64(slices.Max(values))
}

func least(values []int) float64 {
	if len(values) == 0 {
		return math.Inf(-1)
	}
	return float64(slices.Min(values))
}

// spread is the median, and the least and the most where they differ.
func spread(values []int) string {
	if least(values) == most(values) {
		return fmt.Sprint(values[0])
	}
	return fmt.Sprintf("%d (%d to %d)", report.Median(values), slices.Min(values), slices.Max(values))
}
