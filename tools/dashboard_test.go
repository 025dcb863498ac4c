// Package tools checks what is for other programs, with libraries that the main
// module does without.
package tools

import (
	"os"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// parse reads a dashboard by Grafana's schema and returns what is wrong with it.
func parse(text string) string {
	var d dashboard.Dashboard
	if err := d.UnmarshalJSONStrict([]byte(text)); err != nil && err.Error() != "" { // no errors are an error without text
		return err.Error()
	}
	if err := d.Validate(); err != nil {
		return err.Error()
	}
	return ""
}

// The dashboard is what Grafana's schema says: every required field is there, none
// that it does not know, and all have the right type, those of panels and of queries
// to Prometheus included.
func TestDashboardSchema(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	raw, err := os.ReadFile("../docs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	if wrong := parse(text); wrong != "" {
		t.Error(wrong)
	}
	// What is wrong on purpose is found: the check looks into all of it.
	for _, change := range []struct{ from, to, wrong string }{
		{`"schemaVersion": 39`, `"schemaVersion": "39"`, "schemaVersion"},
		{`"graphTooltip": 1`, `"graphTooltips": 1`, "graphTooltips"},
		{`"legendFormat"`, `"legendForm"`, "legendForm"},
		{`"drawStyle": "line"`, `"drawStyle": 1`, "drawStyle"},
		{`"placement": "bottom",`, ``, "placement"},
		{`"includeAll": true`, `"includeAll": "yes"`, "includeAll"},
	} {
		if wrong := parse(strings.Replace(text, change.from, change.to, 1)); !strings.Contains(wrong, change.wrong) {
			t.Errorf("%s instead of %s gives %q, want an error about %s", change.to, change.from, wrong, change.wrong)
		}
	}
}
