package integration

import (
	"fmt"
	"strings"
	"testing"
)

// What could let a request through to a client-certificate site is said at
// start, naming the sites.
func TestWarningsAtStart(t *testing.T) {
	for _, test := range []struct {
		name, options, gate string
		want                map[string]any // nil: no warning
	}{
		{"guarded", strictOff, "scope certificate", nil},
		{"share", strictOff, "share a.x.test m.x.test", map[string]any{"sites": "[a.x.test m.x.test]", "share": "[a.x.test m.x.test]"}},
		{"share within one policy", strictOff, "share a.x.test b.x.test", nil},
		{"report_only", strictOff, "report_only", map[string]any{"sites": "[m.x.test]", "option": "report_only"}},
		{"trusted_gateways", strictOff, "trusted_gateways private_ranges", nil},
		{"missing_sni accept", strictOff, "missing_sni accept", nil},
		{"strict_sni_host", "default_sni o.y.test", "scope sni", map[string]any{"msg": "strict_sni_host is on"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, test.options, sites(test.gate, ""), siteNames[:1])
			var warnings []map[string]any
			for _, line := range c.logged("") {
				// that of the shared certificate is not what this is about
				if line["logger"] == "connreuse" && line["level"] == "warn" && !strings.Contains(fmt.Sprint(line["msg"]), "origin listener wrapper") {
					warnings = append(warnings, line)
				}
			}
			if test.want == nil {
				if len(warnings) != 0 {
					t.Errorf("warnings: %v", warnings)
				}
				return
			}
			if len(warnings) != 1 {
				t.Fatalf("%d warnings, want 1: %v", len(warnings), warnings)
			}
			for key, want := range test.want {
				if got := fmt.Sprint(warnings[0][key]); !strings.Contains(got, fmt.Sprint(want)) {
					t.Errorf("%s is %s, want %v", key, got, want)
				}
			}
			if warnings[0]["server"] != "srv0" {
				t.Errorf("the warning does not name the server: %v", warnings[0])
			}
		})
	}
	t.Run("no guard", func(t *testing.T) {
		t.Parallel()
		text := strings.Replace(sites("scope sni", ""), "m.x.test {\n\tmisdirected {\n\t\tscope sni\n\t}", "m.x.test {", 1)
		c := startCaddy(t, strictOff, text, siteNames[:1])
		lines := c.logged("no misdirected handler runs")
		if len(lines) != 1 || fmt.Sprint(lines[0]["sites"]) != "[m.x.test]" {
			t.Errorf("warnings: %v, want one that names m.x.test", lines)
		}
	})
}
