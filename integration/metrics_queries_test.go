package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A query is one of the documentation, of a panel or of an alert.
type query struct {
	where, text string
	legend      string // of a panel
}

// concrete is the query with values for the variables of the dashboard.
func (q query) concrete() string {
	return strings.NewReplacer("$__rate_interval", "5m", "$upstream", ".*", "$server", ".*").Replace(q.text)
}

// pageQueries are those of the page about metrics.
func pageQueries(t *testing.T) (found []query) {
	for i, match := range regexp.MustCompile("(?s)```promql\n(.*?)```").FindAllStringSubmatch(read(t, metricsPage), -1) {
		found = append(found, query{where: fmt.Sprintf("query %d of the page", i+1), text: match[1]})
	}
	if len(found) == 0 {
		t.Error("the page has no query")
	}
	return found
}

// A grafanaDashboard is what Grafana reads of one, as far as it concerns us.
type grafanaDashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
	Panels []struct {
		ID                       int
		Type, Title, Description string
		Targets                  []struct {
			Datasource         struct{ Type, UID string }
			Expr, LegendFormat string
		}
	}
}

// dashboardQueries checks the form of the dashboard and returns the queries of
// its panels and of its variables; those as queries for the labels' values.
func dashboardQueries(t *testing.T) (found []query) {
	t.Helper()
	var d grafanaDashboard
	if err := json.Unmarshal([]byte(read(t, dashboard)), &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion == 0 {
		t.Errorf("uid %q, title %q, schemaVersion %d; Grafana needs all of them", d.UID, d.Title, d.SchemaVersion)
	}
	variables := make(map[string]string)
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
		if v.Type != "query" {
			continue
		}
		var q struct{ Query string }
		if err := json.Unmarshal(v.Query, &q); err != nil {
			t.Fatalf("variable %s: %v", v.Name, err)
		}
		match := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(q.Query)
		if match == nil {
			t.Fatalf("variable %s: %s is no label_values(<selector>, <label>)", v.Name, q.Query)
		}
		found = append(found, query{"variable " + v.Name, fmt.Sprintf("group by (%s) (%s)", match[2], match[1]), "{{" + match[2] + "}}"})
	}
	if want := map[string]string{"datasource": "datasource", "upstream": "query", "server": "query"}; !maps.Equal(variables, want) {
		t.Errorf("variables %v, want %v", variables, want)
	}
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		if p.Title == "" || ids[p.ID] {
			t.Errorf("panel %d %q: a title and an id of its own are needed", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: no description, or no query", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.Type != "prometheus" || target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q: data source %+v is not the variable", p.Title, target.Datasource)
			}
			found = append(found, query{"panel " + strconv.Quote(p.Title), target.Expr, target.LegendFormat})
		}
	}
	return found
}

// alertQueries are the alerts, each with all of its text but the comments.
func alertQueries(t *testing.T) (found []query) {
	t.Helper()
	text := regexp.MustCompile(`(?m)^ *#.*\n`).ReplaceAllString(read(t, alerts), "")
	for alert := range strings.SplitSeq(text, "- alert: ") {
		name, rule, _ := strings.Cut(alert, "\n")
		if strings.Contains(rule, "expr:") {
			found = append(found, query{where: "alert " + name, text: rule})
		}
	}
	return found
}

// check finds names, labels and values of labels that the query uses and that
// the documentation does not know.
func (q query) check(t *testing.T, docs map[string]metric) {
	t.Helper()
	known := []string{"instance", "le"}
	for _, selector := range regexp.MustCompile(`(caddy_\w*[a-z])(?:\{([^}]*)\})?`).FindAllStringSubmatch(q.text, -1) {
		name := selector[1]
		m, ok := docs[name]
		if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, ""); !ok && docs[base].kind == "histogram" {
			m, ok = docs[base], true
		}
		if !ok {
			t.Errorf("%s: there is no metric %s", q.where, name)
			continue
		}
		known = append(known, m.labels...)
		for _, match := range regexp.MustCompile(`(\w+)(=~|!~|!=|=)"([^"]*)"`).FindAllStringSubmatch(selector[2], -1) {
			label, operator, value := match[1], match[2], match[3]
			if !slices.Contains(m.labels, label) {
				t.Errorf("%s: %s has no label %s", q.where, name, label)
			}
			if strings.HasPrefix(value, "$") {
				continue
			}
			pattern := regexp.QuoteMeta(value)
			if strings.HasSuffix(operator, "~") {
				pattern = value
			}
			for alternative := range strings.SplitSeq(pattern, "|") {
				re := regexp.MustCompile("^(?:" + alternative + ")$")
				if !slices.ContainsFunc(slices.Collect(maps.Keys(m.values[label])), re.MatchString) {
					t.Errorf("%s: %s of %s is never %q", q.where, label, name, value)
				}
			}
		}
	}
	for _, match := range regexp.MustCompile(`(?:by|ignoring) ?\(([^)]*)\)`).FindAllStringSubmatch(q.text, -1) {
		for label := range strings.SplitSeq(match[1], ", ") {
			if !slices.Contains(known, label) {
				t.Errorf("%s: no metric in it has a label %s", q.where, label)
			}
		}
	}
}
