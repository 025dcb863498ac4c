package integration

import (
	"crypto/tls"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

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

// A metricsSetup is a Caddy with all three modules and two upstreams, of which one
// speaks TLS.
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
	secured := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(secured.Close)
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
t.x.test {
	misdirected {
		scope certificate
	}
	reverse_proxy %s {
		transport upstreampool {
			tls_insecure_skip_verify
			max_requests 1
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
`, s.upstream.Listener.Addr(), secured.Listener.Addr()), []string{"a.x.test", "o.y.test", "r.y.test"})
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
				{"t.x.test", "/", 200},
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

		"caddy_upstreampool_storage_operations_total": "outcome",
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
	buckets := regexp.MustCompile(`They end at ([^_]*) s\.`).FindStringSubmatch(read(t, metricsPage))
	for name, m := range docs {
		if m.kind != "histogram" {
			continue
		}
		var bounds []string
		for _, match := range regexp.MustCompile(name+`_bucket\{.*le="([0-9.]+)"\}`).FindAllStringSubmatch(text, -1) {
			bounds = append(bounds, match[1])
		}
		slices.Sort(bounds)
		if want, got := regexp.MustCompile(`[0-9.]+[0-9]`).FindAllString(buckets[1], -1), slices.Compact(bounds); !slices.Equal(got, want) {
			t.Errorf("buckets of %s end at %v, want %v", name, got, want)
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
