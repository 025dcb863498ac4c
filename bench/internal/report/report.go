// Package report is what a benchmark found: claims that hold or not, tables and
// plots. Benchmarks fill in a [Result]; nothing in docs/results.md is typed by hand.
package report

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Benchmark measures one part of the project against its peers.
type Benchmark struct {
	Name  string // as on the command line
	Run   func(context.Context, Options) (*Result, error)
	Waits bool // most of the time: others may run beside it, if they do so as well
}

// Options are what a run was asked for.
type Options struct {
	Quick    bool      // a sample: less of everything, for CI
	Progress io.Writer // for people
}

// Loose is a limit of a ratio of throughputs: a quick run on a busy machine cannot
// tell a few per cent, only a disaster.
func (o Options) Loose(limit float64) float64 {
	if o.Quick {
		return limit / 2
	}
	return limit
}

// LooseMost is [Options.Loose] for what must not be exceeded.
func (o Options) LooseMost(limit float64) float64 {
	if o.Quick {
		return limit * 2
	}
	return limit
}

// A Result is what one benchmark found.
type Result struct {
	Name     string    `json:"name"`
	Title    string    `json:"title"`
	Text     string    `json:"text"` // Markdown: what was compared with what, and how
	Quick    bool      `json:"quick"`
	Versions []string  `json:"versions"`
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	Claims   []Claim   `json:"claims"`
	Tables   []Table   `json:"tables"`
	Plots    []Plot    `json:"plots"`
}

// A Claim is a sentence about this project that the figures bear out, or not.
type Claim struct {
	Name  string `json:"name"` // unique: "gate/h2"
	Text  string `json:"text"`
	Value string `json:"value"` // as measured
	Limit string `json:"limit"` // what it has to be
	Holds bool   `json:"holds"`
	// Beside is what one would use instead, with the same figure of it, where the claim
	// is no comparison.
	Beside string `json:"beside,omitempty"`
}

// A Table is a table of Markdown.
type Table struct {
	Title   string     `json:"title"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

// A Plot is a plot of lines.
type Plot struct {
	Name   string   `json:"name"` // of its file
	Title  string   `json:"title"`
	X      string   `json:"x"` // what the axes show, with units
	Y      string   `json:"y"`
	LogX   bool     `json:"log_x,omitempty"`
	LogY   bool     `json:"log_y,omitempty"`
	Bars   bool     `json:"bars,omitempty"` // X are indices of Labels
	Labels []string `json:"labels,omitempty"`
	Series []Series `json:"series"`
}

// A Series is one line of a plot, or the bars of one colour.
type Series struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"`
}

// AtLeast and AtMost add a claim on a number. What they return is good until the next one
// is added.
func (r *Result) AtLeast(name, text string, value, limit float64) *Claim {
	return r.add(Claim{Name: name, Text: text, Value: number(value), Limit: fmt.Sprintf("at least %.3g", limit), Holds: value >= limit})
}

// AtMost is the other way round.
func (r *Result) AtMost(name, text string, value, limit float64) *Claim {
	return r.add(Claim{Name: name, Text: text, Value: number(value), Limit: fmt.Sprintf("at most %.3g", limit), Holds: value <= limit})
}

// None adds the claim that there are none, of so many.
func (r *Result) None(name, text string, n, of int) *Claim {
	return r.add(Claim{Name: name, Text: text, Value: fmt.Sprintf("%d of %d", n, of), Limit: "0", Holds: n == 0 && of > 0})
}

func (r *Result) add(c Claim) *Claim {
	r.Claims = append(r.Claims, c)
	return &r.Claims[len(r.Claims)-1]
}

// With says what the same figure is of something else.
func (c *Claim) With(other string, value any) *Claim {
	if f, ok := value.(float64); ok {
		value = number(f)
	}
	if c.Beside != "" {
		c.Beside += ", "
	}
	c.Beside += fmt.Sprintf("%s: %v", other, value)
	return c
}

// number writes a ratio with three digits, and a count as one.
func number(v float64) string {
	if v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// Broken returns the claims that do not hold.
func (r *Result) Broken() []Claim {
	return slices.DeleteFunc(slices.Clone(r.Claims), func(c Claim) bool { return c.Holds })
}

// BrokenNames returns what the claims are called that do not hold.
func (r *Result) BrokenNames() (names []string) {
	for _, c := range r.Broken() {
		names = append(names, c.Name)
	}
	return names
}

// Markdown writes the result as a section; plots are in the folder plots.
func (r *Result) Markdown(w io.Writer, plots string) {
	fmt.Fprintf(w, "## %s\n\n%s\n\n", r.Title, strings.TrimSpace(r.Text))
	if len(r.Claims) > 0 {
		Table{Columns: claimColumns, Rows: r.claimRows(r.Claims)}.markdown(w)
	}
	for _, t := range r.Tables {
		t.markdown(w)
	}
	for _, p := range r.Plots {
		fmt.Fprintf(w, "![%s](%s/%s.svg)\n\n", p.Title, plots, p.Name)
	}
	how := "Measured"
	if r.Quick {
		how = "A quick run, measured"
	}
	fmt.Fprintf(w, how+" on %s in %.0f s with %s.\n\n", r.Started.UTC().Format(time.DateOnly), r.Seconds, strings.Join(r.Versions, ", "))
}

var claimColumns = []string{"claim", "measured", "limit", "holds", "beside", "name", "measured anew by"}

// nameColumn is that of names, which the README leaves out.
const nameColumn = 5

// claimRows are rows of a table of claims of r.
func (r *Result) claimRows(claims []Claim) (rows [][]string) {
	for _, c := range claims {
		holds := "yes"
		if !c.Holds {
			holds = "**NO**"
		}
		rows = append(rows, []string{c.Text, c.Value, c.Limit, holds, c.Beside, "`" + c.Name + "`", "`" + r.Command() + "`"})
	}
	return rows
}

// Command measures the result anew.
func (r *Result) Command() string { return "go -C bench run . " + r.Name }

func (t Table) markdown(w io.Writer) {
	if t.Title != "" {
		fmt.Fprintf(w, "%s\n\n", t.Title)
	}
	row := func(cells []string) {
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
	row(t.Columns)
	row(slices.Repeat([]string{"---"}, len(t.Columns)))
	for _, cells := range t.Rows {
		row(cells)
	}
	fmt.Fprintln(w)
}

// A Spread is the median, the least and the most of some values.
type Spread struct{ Median, Min, Max float64 }

// SpreadOf returns the spread of values.
func SpreadOf(values []float64) Spread {
	return Spread{Median(values), slices.Min(values), slices.Max(values)}
}

func (s Spread) String() string { return fmt.Sprintf("%.3f (%.3f to %.3f)", s.Median, s.Min, s.Max) }

// Range is the median of counts, and the least and the most where they differ.
func Range(counts []int) string {
	least, most := slices.Min(counts), slices.Max(counts)
	if least == most {
		return strconv.Itoa(least)
	}
	return fmt.Sprintf("%d (%d to %d)", Median(counts), least, most)
}

// Median returns the median of values.
func Median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
