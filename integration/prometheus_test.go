package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// prometheus is the URL of a running Prometheus.
type prometheus string

// startPrometheus starts it with the configuration of the documentation, but
// for addresses, paths and intervals.
func startPrometheus(t *testing.T, c *caddy, flags ...string) prometheus {
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
	cmd := exec.Command(program, append(flags, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn")...)
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

// watchTraffic makes traffic until Prometheus has seen a rate of everything, which
// takes two samples with traffic between them.
func (p prometheus) watchTraffic(s *metricsSetup) {
	s.t.Helper()
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
}

// finds fails the test unless Prometheus finds something for a query, with all that
// its legend names. Where it got no answer in time, it has nothing until it asks again.
func (p prometheus) finds(t *testing.T, q query) {
	t.Helper()
	var got []series
	poll.Succeed(t, q.where, func() error {
		var err error
		if got, err = p.query(q.concrete()); err != nil || len(got) == 0 {
			return fmt.Errorf("%d series, %w:\n%s", len(got), err, q.text)
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

// A Prometheus that stores native histograms has no others of ours. All panels and
// alerts find theirs.
func TestNativeHistograms(t *testing.T) {
	t.Parallel()
	s := startForMetrics(t)
	p := startPrometheus(t, s.caddy, "--enable-feature=native-histograms")
	p.watchTraffic(s)
	if got, err := p.query(`{__name__=~"caddy_upstreampool_.*_bucket"}`); err != nil || len(got) > 0 {
		t.Errorf("%v, %v: the histograms are not native", got, err)
	}
	for _, q := range dashboardQueries(t) {
		p.finds(t, q)
	}
	threshold := regexp.MustCompile(`(?s)expr: \|\n(.*?) > [0-9.]+\n`)
	found := 0
	for _, q := range alertQueries(t) {
		if match := threshold.FindStringSubmatch(q.text); match != nil && strings.Contains(q.text, "_seconds") {
			found++
			p.finds(t, query{where: q.where, text: match[1]})
		}
	}
	if found != 2 {
		t.Errorf("%d alerts look at histograms, want 2", found)
	}
}

// A real Prometheus understands the rules and every query, and finds something
// for each that is asked of a panel or by the page.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	promtool := needs.Program(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", alerts}, {"test", "rules", alertsTest}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}

	s := startForMetrics(t)
	p := startPrometheus(t, s.caddy)
	p.watchTraffic(s)
	for _, q := range slices.Concat(pageQueries(t), dashboardQueries(t)) {
		p.finds(t, q)
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
