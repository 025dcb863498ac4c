package integration

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

const (
	metricsPage = "../docs/metrics.md"
	dashboard   = "../docs/grafana-dashboard.json"
	alerts      = "../docs/alerts.yml"
	alertsTest  = "testdata/alerts_test.yml"
)

// A metric is what the documentation or Caddy says of one.
type metric struct {
	kind   string
	labels []string                   // sorted
	values map[string]map[string]bool // by label: those of closed lists, or those seen
}

// documented reads the page about metrics: a heading with names, a line with
// type and labels, and a table of values for each label that has a closed list.
func documented(t *testing.T) map[string]metric {
	t.Helper()
	found := make(map[string]metric)
	for section := range strings.SplitSeq(read(t, metricsPage), "\n### ") {
		heading, text, _ := strings.Cut(section, "\n")
		names := quoted(heading)
		if len(names) == 0 {
			continue
		}
		line := regexp.MustCompile(`(?m)^(Counter|Gauge|Histogram)\. Labels: (.*)\.$`).FindStringSubmatch(text)
		if line == nil {
			t.Fatalf("%s: no line with type and labels", heading)
		}
		m := metric{strings.ToLower(line[1]), slices.Sorted(slices.Values(quoted(line[2]))), make(map[string]map[string]bool)}
		for _, table := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| meaning \\|\n\\|---\\|---\\|\n((?:\\|.*\n)+)").FindAllStringSubmatch(text, -1) {
			values := make(map[string]bool)
			for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(table[2], -1) {
				values[row[1]] = true
			}
			m.values[table[1]] = values
		}
		for _, label := range m.labels {
			if label != "server" && label != "upstream" && m.values[label] == nil {
				t.Errorf("%s: no table of the values of %s", heading, label)
			}
		}
		for _, name := range names {
			found[name] = m
		}
	}
	return found
}

// quoted returns what stands in backquotes.
func quoted(text string) (found []string) {
	for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exposed reads what /metrics says of our metrics.
func exposed(t *testing.T, text string) map[string]metric {
	t.Helper()
	found := make(map[string]metric)
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (caddy_(?:misdirected|origin|upstreampool)_\w+) (\w+)$`).FindAllStringSubmatch(text, -1) {
		name, kind := match[1], match[2]
		m := metric{kind: kind, values: make(map[string]map[string]bool)}
		for _, series := range regexp.MustCompile(`(?m)^`+name+`(?:_bucket|_sum|_count)?\{(.*)\} `).FindAllStringSubmatch(text, -1) {
			for _, label := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(series[1], -1) {
				if label[1] == "le" {
					continue
				}
				if m.values[label[1]] == nil {
					m.values[label[1]] = make(map[string]bool)
				}
				m.values[label[1]][label[2]] = true
			}
		}
		m.labels = slices.Sorted(maps.Keys(m.values))
		found[name] = m
	}
	return found
}

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

// A metricsSetup is a Caddy with all three modules and an upstream.
type metricsSetup struct {
	*caddy
	upstream *httptest.Server
}

func startForMetrics(t *testing.T) *metricsSetup {
	t.Helper()
	s := &metricsSetup{upstream: httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/421":
			w.WriteHeader(http.StatusMisdirectedRequest)
		case "/close":
			w.Header().Set("Connection", "close")
		}
	}))}
	t.Cleanup(s.upstream.Close)
	s.caddy = startCaddy(t, `servers {
		strict_sni_host insecure_off
		listener_wrappers {
			origin {
				origins sites
				max_origins 1
			}
		}
	}
	default_sni o.y.test`, fmt.Sprintf(`
*.x.test {
	misdirected {
		scope certificate
	}
	respond wildcard
}
a.x.test {
	misdirected {
		scope certificate
	}
	reverse_proxy %s {
		transport upstreampool {
			upstream_keep_alive 1h
		}
	}
}
b.x.test, c.x.test {
	misdirected {
		scope certificate
	}
	respond b
}
o.y.test {
	misdirected
	respond o
}
r.y.test {
	misdirected {
		report_only
	}
	respond r
}
`, s.upstream.Listener.Addr()), []string{"a.x.test", "o.y.test", "r.y.test"})
	return s
}

// lastCounted is the counter that the last request of traffic moves.
var lastCounted = regexp.MustCompile(`(?m)^caddy_misdirected_requests_total\{outcome="direct",protocol="h1",.*\} (.*)$`)

// idle is there as long as a connection is.
var idle = regexp.MustCompile(`(?m)^caddy_upstreampool_connections\{state="idle",.*\} [1-9].*$`)

// traffic makes all kinds of requests. It moves every counter but those of
// races and refusals, and leaves an idle connection behind.
func (s *metricsSetup) traffic() {
	s.t.Helper()
	for _, sni := range []string{"a.x.test", ""} {
		for protocol, dial := range map[string]func(testing.TB, string, *tls.Config) client{"h1": dialH1, "h2": dialH2} {
			conn := dial(s.t, s.addr, clientTLS(sni))
			for _, test := range []struct {
				host, target string
				want         int
			}{
				{"a.x.test", "/", 200},
				{"a.x.test", "/421", 421}, // replayed, and passed on
				{"a.x.test", "/close", 200},
				{"b.x.test", "/", 200},
				{"r.y.test", "/", 200},
			} {
				if got := conn.do(ask{authority: test.host, target: test.target}); got.status != test.want {
					s.t.Errorf("%s, SNI %q: %s%s answered with %v, want %d", protocol, sni, test.host, test.target, got, test.want)
				}
			}
			if got := conn.do(ask{authority: "o.y.test"}); sni != "" && got.status != 421 {
				s.t.Errorf("%s, SNI %q: o.y.test answered with %v, want 421", protocol, sni, got)
			}
			conn.close()
		}
	}
	conn := dialH1(s.t, s.addr, clientTLS("a.x.test"))
	defer conn.close()
	for range 2 {
		if got := conn.do(ask{authority: "a.x.test"}); got.status != 200 {
			s.t.Errorf("before and after the upstream closed its connections: %v", got)
		}
		s.upstream.CloseClientConnections()
		poll.Succeed(s.t, "the pool to see that the upstream closes", func() error {
			if line := idle.FindString(s.get("/metrics")); line != "" {
				return errors.New(line)
			}
			return nil
		})
	}
	conn.do(ask{authority: "a.x.test"})
}

// The page about metrics, the dashboard and the alerts name what there is, and
// the page all of it.
func TestMetricsAreDocumented(t *testing.T) {
	s := startForMetrics(t)
	s.traffic()
	text := s.get("/metrics")
	docs, got := documented(t), exposed(t, text)
	for name, m := range docs {
		if got[name].kind == "" {
			t.Errorf("%s is documented, but /metrics does not have it", name)
			continue
		}
		if m.kind != got[name].kind || !slices.Equal(m.labels, got[name].labels) {
			t.Errorf("%s is documented as a %s with labels %v, but is a %s with %v", name, m.kind, m.labels, got[name].kind, got[name].labels)
		}
		for label, values := range m.values {
			for value := range got[name].values[label] {
				if !values[value] {
					t.Errorf("%s: %s %q is not documented", name, label, value)
				}
			}
		}
	}
	for name := range got {
		if docs[name].kind == "" {
			t.Errorf("%s is not documented", name)
		}
	}

	// These are there before the first event; the others may lack values that
	// did not occur.
	for name, label := range map[string]string{
		"caddy_misdirected_requests_total":  "outcome",
		"caddy_upstreampool_connections":    "state",
		"caddy_upstreampool_requests_total": "connection",
		"caddy_upstreampool_races_total":    "outcome",
		"caddy_upstreampool_refusals_total": "reason",
	} {
		if want, got := docs[name].values[label], got[name].values[label]; !maps.Equal(got, want) {
			t.Errorf("%s: %s has the values %v, want the documented %v", name, label, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	for _, c := range []struct{ folder, constant, metric, label string }{
		{"../internal/connpool", "CloseReason", "caddy_upstreampool_connections_closed_total", "reason"},
		{"../internal/replay", "Reason", "caddy_upstreampool_replays_total", "reason"},
		{"../internal/idletime", "Source", "caddy_upstreampool_idle_limit_seconds", "source"},
	} {
		if want, got := docs[c.metric].values[c.label], constants(t, c.folder, c.constant); !maps.Equal(got, want) {
			t.Errorf("%s: constants of type %s are %v, documented are %v", c.metric, c.constant, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	}
	buckets := regexp.MustCompile(`Its buckets end at\s+([^_]*) s\.`).FindStringSubmatch(read(t, metricsPage))
	for _, bound := range regexp.MustCompile(`[0-9.]+`).FindAllString(buckets[1], -1) {
		if !strings.Contains(text, fmt.Sprintf("acquire_wait_seconds_bucket{upstream=%q,le=%q}", s.upstream.Listener.Addr(), bound)) {
			t.Errorf("no bucket ends at %s s", bound)
		}
	}

	for _, q := range slices.Concat(pageQueries(t), dashboardQueries(t), alertQueries(t)) {
		q.check(t, docs)
	}

	t.Run("without the global option", func(t *testing.T) {
		config := s.get("/config/")
		without := strings.Replace(config, `"metrics":{},`, "", 1)
		if without == config {
			t.Fatalf("no metrics in %s", config)
		}
		if err := s.load([]byte(without)); err != nil {
			t.Fatal(err)
		}
		text := s.get("/metrics")
		if got := exposed(t, text); len(got) != len(docs) {
			t.Errorf("%d metrics, want %d: %v", len(got), len(docs), slices.Sorted(maps.Keys(got)))
		}
		if strings.Contains(text, "caddy_http_requests_total") {
			t.Error("Caddy's own are there as well")
		}
	})
	t.Run("Caddyfile", func(t *testing.T) {
		block := fenced(t, "caddyfile")
		file := filepath.Join(t.TempDir(), "Caddyfile")
		if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(binary, "adapt", "--validate", "--config", file).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := exec.Command(binary, "fmt", file).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// fenced returns the only block of a language in the page about metrics.
func fenced(t *testing.T, language string) string {
	t.Helper()
	match := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(read(t, metricsPage), -1)
	if len(match) != 1 {
		t.Fatalf("%d blocks of %s, want one", len(match), language)
	}
	return match[0][1]
}

// constants returns the values of the string constants of a type.
func constants(t *testing.T, dir, typeName string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok {
				return true
			}
			if of, ok := spec.Type.(*ast.Ident); ok && of.Name == typeName {
				for _, value := range spec.Values {
					if literal, ok := value.(*ast.BasicLit); ok {
						text, err := strconv.Unquote(literal.Value)
						if err != nil {
							t.Fatal(err)
						}
						found[text] = true
					}
				}
			}
			return true
		})
	}
	return found
}

// prometheus is the URL of a running Prometheus.
type prometheus string

// startPrometheus starts it with the configuration of the documentation, but
// for addresses, paths and intervals.
func startPrometheus(t *testing.T, c *caddy) prometheus {
	t.Helper()
	program := needs.Program(t, "prometheus", "prometheus")
	rules, err := filepath.Abs(alerts)
	if err != nil {
		t.Fatal(err)
	}
	config := fenced(t, "yaml")
	for _, change := range [][2]string{
		{"scrape_interval: 15s", "scrape_interval: 1s"},
		{"evaluation_interval: 15s", "evaluation_interval: 1s"},
		{"alerts.yml", strconv.Quote(rules)},
		{"localhost:2019", strings.TrimPrefix(c.admin, "http://")},
	} {
		if strings.Count(config, change[0]) != 1 {
			t.Fatalf("the configuration of the page does not have %s once:\n%s", change[0], config)
		}
		config = strings.Replace(config, change[0], change[1], 1)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + freePort(t)
	log := new(logBuffer)
	cmd := exec.Command(program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("Prometheus ended: %v\n%s", err, log.String())
		}
	})
	return prometheus("http://" + addr)
}

// api asks the HTTP API and decodes its data.
func (p prometheus) api(path string, data any) error {
	resp, err := http.Get(string(p) + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// A series is one result of a query.
type series struct {
	Metric map[string]string
	Value  [2]any // time and value
}

func (p prometheus) query(text string) ([]series, error) {
	var data struct{ Result []series }
	err := p.api("/api/v1/query?query="+url.QueryEscape(text), &data)
	return data.Result, err
}

// A real Prometheus understands the rules and every query, and finds something
// for each that is asked of a panel or by the page.
func TestPrometheus(t *testing.T) {
	promtool := needs.Program(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", alerts}, {"test", "rules", alertsTest}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}

	s := startForMetrics(t)
	p := startPrometheus(t, s.caddy)
	// Rates need two samples, with traffic between them.
	for range 2 {
		s.traffic()
		want := lastCounted.FindStringSubmatch(s.get("/metrics"))[1]
		poll.Succeed(s.t, "Prometheus to see the last request", func() error {
			got, err := p.query(`caddy_misdirected_requests_total{outcome="direct", protocol="h1"}`)
			if err == nil && (len(got) != 1 || got[0].Value[1] != want) {
				err = fmt.Errorf("it has %v, want %s", got, want)
			}
			return err
		})
	}

	for _, q := range slices.Concat(pageQueries(t), dashboardQueries(t)) {
		var got []series
		// Where Prometheus got no answer in time, it has nothing until it asks again.
		poll.Succeed(s.t, q.where, func() error {
			var err error
			if got, err = p.query(q.concrete()); err != nil || len(got) == 0 {
				return fmt.Errorf("%d series, %v:\n%s", len(got), err, q.text)
			}
			if !slices.ContainsFunc(got, func(s series) bool { return s.Value[1] != "NaN" }) {
				return fmt.Errorf("nothing but NaN in %v", got)
			}
			return nil
		})
		for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.legend, -1) {
			for _, series := range got {
				if series.Metric[label[1]] == "" {
					t.Errorf("%s: the legend shows %s, which %v does not have", q.where, label[1], series.Metric)
				}
			}
		}
	}

	type rule struct {
		Name, Query, Health, LastError string
		Duration                       float64
		Labels, Annotations            map[string]string
	}
	var rules []rule
	poll.Succeed(s.t, "Prometheus to evaluate the rules", func() error {
		var data struct{ Groups []struct{ Rules []rule } }
		if err := p.api("/api/v1/rules?type=alert", &data); err != nil {
			return err
		}
		rules = nil
		for _, g := range data.Groups {
			rules = append(rules, g.Rules...)
		}
		for _, r := range rules {
			if r.Health == "unknown" {
				return fmt.Errorf("%s was not evaluated", r.Name)
			}
		}
		return nil
	})
	if want := len(alertQueries(t)); len(rules) != want || want == 0 {
		t.Errorf("%d alerts, want %d", len(rules), want)
	}
	page, unit := read(t, metricsPage), read(t, alertsTest)
	for _, r := range rules {
		if r.Health != "ok" {
			t.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
		}
		if _, err := p.query(r.Query); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		if severity := r.Labels["severity"]; !strings.Contains(page, fmt.Sprintf("| `%s` | %s |", r.Name, severity)) {
			t.Errorf("%s of severity %q is not in the table of the page", r.Name, severity)
		}
		if r.Duration == 0 || r.Annotations["summary"] == "" || !strings.Contains(r.Annotations["description"], "GET /connreuse/") {
			t.Errorf("%s: for %v s, annotations %v; want a duration, a summary and what to do next", r.Name, r.Duration, r.Annotations)
		}
		fires := regexp.MustCompile(`alertname: ` + r.Name + `\n +exp_alerts:`)
		silent := regexp.MustCompile(`alertname: ` + r.Name + `\}`)
		if !fires.MatchString(unit) || !silent.MatchString(unit) {
			t.Errorf("%s: %s does not show it going off and not", r.Name, alertsTest)
		}
	}
}
