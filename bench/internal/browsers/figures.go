package browsers

import (
	"fmt"
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

func itself(browser.Visit) int          { return 1 }
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

// addTable adds table and plots.
func addTable(result *report.Result, chosen []scenario, found found, visits int) {
	table := report.Table{
		Title: "Connections that carried requests of a visit, by protocol, and 421s of a visit, also those of HTTP/3 alone: medians, and least and most where they differ. " +
			"On another's: requests answered on a connection for another host, where a backend that is chosen by SNI (`example/two-sites`) gives the wrong page. " +
			"Broken images are those of all visits. Load is the time until all images are there, median and worst. A visit is lost where the browser stays with an error page:",
		Columns: []string{"served with", "browser", "visits lost", "h2", "h3", "421s", "421s on h3", "on another's", "broken images", "load, ms", "worst"},
	}
	refused := newPlot("browsers", "421s of a visit, per browser and scenario", "421s")
	slow := newPlot("browsers-load", "Time until all images of a visit are there, per browser and scenario", "ms")
	for n, s := range chosen {
		for i, b := range both {
			f := found[b.Name][s.name]
			title := ""
			if i == 0 {
				title = fmt.Sprintf("%d. %s", n+1, s.name)
			}
			table.Rows = append(table.Rows, append([]string{title, b.Name}, f.row(visits)...))
			if label := fmt.Sprintf("%s %d", b.Name[:2], n+1); len(f.each(load)) > 0 {
				addBars(&refused, label, f.each(refusals))
				addBars(&slow, label, f.each(load))
			}
		}
	}
	result.Tables, result.Plots = append(result.Tables, table), append(result.Plots, refused, slow)
}

// row is what the table says of a browser in a scenario, of so many visits.
func (s seen) row(visits int) []string {
	loads := s.each(load)
	lost := fmt.Sprintf("%d of %d", visits-len(loads), visits)
	if len(loads) == 0 {
		return append([]string{lost}, make([]string, 8)...)
	}
	return []string{lost, report.Range(s.each(connections(http2))), report.Range(s.each(connections(http3))), report.Range(s.each(refusals)),
		report.Range(s.each(refusalsHTTP3)), report.Range(s.each(foreign)), fmt.Sprint(sum(s.each(broken))),
		fmt.Sprint(report.Median(loads)), fmt.Sprint(slices.Max(loads))}
}

func newPlot(name, title, y string) report.Plot {
	return report.Plot{Name: name, Title: title, Y: y, Bars: true, X: "browser (Firefox, Chromium) and row of the table", Series: []report.Series{{Name: "median"}, {Name: "most"}}}
}

// addBars adds the median and the most of what visits had.
func addBars(plot *report.Plot, label string, values []int) {
	x := float64(len(plot.Labels))
	plot.Labels = append(plot.Labels, label)
	for i, y := range []int{report.Median(values), slices.Max(values)} {
		plot.Series[i].Points = append(plot.Series[i].Points, [2]float64{x, float64(y)})
	}
}
