package authority

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

func TestWarnings(t *testing.T) {
	const (
		mtls  = `"tls_connection_policies":[{"match":{"sni":["m.test","*.m.test"]},"client_authentication":{"mode":"require"}},{}]`
		off   = `"strict_sni_host":false`
		guard = `{"handler":"test_guard"}`
		// Nothing is asked of it.
		upstream = `{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:9"}]}`
		files    = `{"handler":"file_server","root":"/nowhere"}`
	)
	by := func(expression, handlers string) string {
		return `{"handler":"subroute","routes":[{"match":[{"expression":"` + expression + `"}],"handle":[` + handlers + `]}]}`
	}
	site := func(host, handlers string) string {
		return `{"match":[{"host":["` + host + `"]}],"handle":[` + handlers + `],"terminal":true}`
	}
	for _, test := range []struct {
		name   string
		server string
		want   []string // what each warning contains, separated by |
	}{
		{
			name:   "guarded",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", guard) + `,` + site("*.m.test", guard) + `,` + site("a.test", "") + `]`,
		},
		{
			name: "error routes that ask an upstream",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", guard) + `,` + site("x.m.test", guard) + `,` + site("y.m.test", guard) + `,` + site("*.m.test", guard) + `],
				"errors":{"routes":[` + site("m.test", upstream) + `,` + site("x.m.test", guard+`,`+upstream) + `,` + site("y.m.test", `{"handler":"static_response"}`) + `,` + site("a.test", upstream) + `]}`,
			want: []string{"put misdirected into handle_errors|sites: m.test"},
		},
		{
			name: "error routes that ask an upstream for other failures than those before the gate",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", guard) + `,` + site("x.m.test", guard) + `,` + site("*.m.test", guard) + `],
				"errors":{"routes":[` + site("m.test", by("{http.error.status_code} in [502, 503]", upstream)) + `,` + site("x.m.test", by("{http.error.status_code} >= 400 && {http.error.status_code} <= 499", upstream)) + `]}`,
			want: []string{"put misdirected into handle_errors|sites: x.m.test"},
		},
		{
			name: "error routes that serve files",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", guard) + `,` + site("x.m.test", guard) + `,` + site("y.m.test", guard) + `,` + site("z.m.test", guard) + `,` + site("*.m.test", guard) + `],
				"errors":{"routes":[` + site("m.test", files) + `,` + site("x.m.test", guard+`,`+files) + `,` + site("y.m.test", `{"handler":"rewrite","uri":"/{http.error.status_code}.html"},`+files) + `,
					` + site("z.m.test", `{"handler":"rewrite","uri":"/errors{http.request.uri.path}"},`+files) + `,` + site("a.test", files) + `]}`,
			want: []string{"serve files by the path that is asked for|sites: m.test, z.m.test"},
		},
		{
			name:   "strict_sni_host turned itself on",
			server: mtls + `,"routes":[` + site("m.test", guard) + `,` + site("a.test", "") + `]`,
			want:   []string{"strict_sni_host is on|insecure_off"},
		},
		{
			name:   "strict_sni_host set",
			server: `"tls_connection_policies":[{}],"strict_sni_host":true,"routes":[` + site("m.test", guard) + `]`,
			want:   []string{"strict_sni_host is on|insecure_off"},
		},
		{
			name:   "sites without a guard",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", "") + `,` + site("x.m.test", "") + `,` + site("a.test", guard) + `]`,
			want:   []string{"no misdirected handler runs|*.m.test, m.test, x.m.test"},
		},
		{
			name:   "a guard for one path is no guard",
			server: mtls + `,` + off + `,"routes":[{"match":[{"host":["*.m.test","m.test"],"path":["/x"]}],"handle":[` + guard + `]}]`,
			want:   []string{"no misdirected handler runs|*.m.test, m.test"},
		},
		{
			name: "each handle block has a guard of its own",
			server: mtls + `,` + off + `,"routes":[{"match":[{"host":["*.m.test","m.test"]}],"terminal":true,"handle":[{"handler":"subroute","routes":[
				{"group":"b","match":[{"path":["/x"]}],"handle":[{"handler":"subroute","routes":[{"handle":[` + guard + `,` + upstream + `]}]}]},
				{"group":"b","handle":[{"handler":"subroute","routes":[{"handle":[` + guard + `,` + upstream + `]}]}]}]}]}]`,
		},
		{
			name: "one of the handle blocks has none",
			server: mtls + `,` + off + `,"routes":[{"match":[{"host":["*.m.test","m.test"]}],"terminal":true,"handle":[{"handler":"subroute","routes":[
				{"group":"b","match":[{"path":["/x"]}],"handle":[` + upstream + `]},
				{"group":"b","handle":[` + guard + `,` + upstream + `]}]}]}]`,
			want: []string{"no misdirected handler runs|*.m.test, m.test"},
		},
		{
			name:   "a guard for everyone is one",
			server: mtls + `,` + off + `,"routes":[{"handle":[` + guard + `]},` + site("m.test", "") + `]`,
		},
		{
			name:   "a catch-all that asks for client certificates",
			server: `"tls_connection_policies":[{"match":{"sni":["a.test"]}},{"client_authentication":{"mode":"require"}}],` + off + `,"routes":[` + site("a.test", guard) + `,{}]`,
			want:   []string{"no misdirected handler runs|catch-all (route 1)"},
		},
		{
			name:   "a catch-all beside a guarded site for single labels",
			server: `"tls_connection_policies":[{"match":{"sni":["a.test"]}},{"client_authentication":{"mode":"require"}}],` + off + `,"routes":[` + site("a.test", guard) + `,` + site("*", guard) + `,{}]`,
			want:   []string{"no misdirected handler runs|catch-all (route 2)"},
		},
		{
			name:   "a guard behind what answers never runs",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", `{"handler":"static_response"},`+guard) + `,` + site("*.m.test", guard) + `]`,
			want:   []string{"no misdirected handler runs|sites: m.test"},
		},
		{
			name:   "a guard behind a route that may answer",
			server: mtls + `,` + off + `,"routes":[{"match":[{"path":["/x"]}],"handle":[{"handler":"static_response"}]},` + site("m.test", guard) + `,` + site("*.m.test", guard) + `]`,
			want:   []string{"no misdirected handler runs|sites: *.m.test, m.test"},
		},
		{
			name:   "the whole server asks for the same certificate",
			server: `"tls_connection_policies":[{"client_authentication":{"mode":"require"}}],` + off + `,"routes":[{"match":[{"path":["/x"]}],"handle":[{"handler":"test_guard","report_only":true}]}]`,
		},
		{
			name:   "a wildcard that Caddy never matches",
			server: `"tls_connection_policies":[{"match":{"sni":["a.*.test"]},"client_authentication":{"mode":"require"}},{}],` + off + `,"routes":[` + site("a.*.test", guard) + `]`,
			want:   []string{"never do|a.*.test"},
		},
		{
			name: "lenient options on a site that asks for client certificates, and not on others",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", `{"handler":"test_guard","report_only":true,"accepts_missing_sni":true}`) + `,` +
				site("*.m.test", guard) + `,` + site("a.test", `{"handler":"test_guard","accepts_missing_sni":true}`) + `]`,
			want: []string{"option|report_only|m.test"}, // on connections without SNI it requires its certificate all the same
		},
		{
			name: "missing_sni accept on a site that requests client certificates of some clients",
			server: `"tls_connection_policies":[{"match":{"sni":["m.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}},{"match":{"sni_regexp":{"pattern":"^m"}},"client_authentication":{"mode":"require"}},{}],` + off + `,
				"routes":[` + site("m.test", `{"handler":"test_guard","accepts_missing_sni":true}`) + `]`,
		},
		{
			name: "missing_sni accept on a site that requests client certificates of some clients",
			server: `"tls_connection_policies":[{"match":{"sni_regexp":{"pattern":"^m"}},"client_authentication":{"mode":"request"}},{}],` + off + `,
				"routes":[` + site("m.test", `{"handler":"test_guard","accepts_missing_sni":true}`) + `]`,
			want: []string{"option|missing_sni accept|m.test"},
		},
		{
			name: "missing_sni accept on a site that requests client certificates without requiring them",
			server: strings.Replace(mtls, "require", "request", 1) + `,` + off + `,"routes":[` + site("m.test", `{"handler":"test_guard","accepts_missing_sni":true}`) + `,` +
				site("*.m.test", guard) + `]`,
			want: []string{"option|missing_sni accept|m.test"},
		},
		{
			name: "no SNI is no site: the adapter lists it where default_sni is",
			server: `"tls_connection_policies":[{"match":{"sni":["127.0.0.1",""]},"default_sni":"127.0.0.1","client_authentication":{"mode":"require"}},{}],` +
				off + `,"routes":[` + site("127.0.0.1", guard) + `]`,
		},
		{
			name: "a share group that the sites of some of its names do not have",
			server: `"tls_connection_policies":[{}],` + off + `,"routes":[` + site("a.test", `{"handler":"test_guard","scope":"sni","share":[["a.test","b.test","c.test","d.test","elsewhere.test"]]}`) + `,` +
				site("b.test", `{"handler":"test_guard","scope":"sni"}`) + `,` + site("c.test", `{"handler":"test_guard","scope":"sni","report_only":true}`) + `,` + site("d.test", "") + `]`,
			want: []string{"refused on connections for its others|sites: b.test|share: a.test, b.test"},
		},
		{
			name: "share groups that cross from one policy to another",
			server: mtls + `,` + off + `,"routes":[` + site("m.test", `{"handler":"test_guard","share":[["a.test","m.test"],["a.test","b.test"]]}`) + `,` +
				site("*.m.test", guard) + `,` + site("a.test", "") + `]`,
			want: []string{"share group|a.test, m.test|share: a.test, m.test"},
		},
		{
			name:   "many sites are counted",
			server: mtls + `,` + off + `,"routes":[` + manySites(30) + `,` + site("a.test", guard) + `]`,
			want:   []string{"no misdirected handler runs|more: 12"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, snap := server(t, test.server)
			var got []string
			for _, w := range snap.warnings() {
				got = append(got, text(w))
			}
			if len(got) != len(test.want) {
				t.Fatalf("%d warnings, want %d: %q", len(got), len(test.want), got)
			}
			for i, parts := range test.want {
				for part := range strings.SplitSeq(parts, "|") {
					if !strings.Contains(got[i], part) {
						t.Errorf("warning %q does not contain %q", got[i], part)
					}
				}
			}
		})
	}
}

func manySites(n int) string {
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf(`"h%02d.m.test"`, i))
	}
	return `{"match":[{"host":[` + strings.Join(hosts, ",") + `]}],"terminal":true}`
}

// text is a warning as an operator reads it.
func text(w Warning) string {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range w.Fields {
		f.AddTo(enc)
	}
	s := w.Message
	for _, key := range []string{"option", "sites", "share", "more"} {
		switch v := enc.Fields[key].(type) {
		case nil:
		case []any:
			var names []string
			for _, name := range v {
				names = append(names, fmt.Sprint(name))
			}
			s += "; " + key + ": " + strings.Join(names, ", ")
		default:
			s += fmt.Sprintf("; %s: %v", key, v)
		}
	}
	return s
}

// started returns what the app logs when it starts, with the name of the server.
func started(t *testing.T, servers string) (entries []map[string]any) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	app, err := testcaddy.Provision(t, `{"http":{"servers":{`+servers+`}}}`, log).App("connreuse")
	if err != nil {
		t.Fatal(err)
	}
	if err := app.(*App).Start(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["logger"] == "connreuse" {
			entries = append(entries, entry)
		}
	}
	return entries
}

// Start says it in the log, with the server's name.
func TestStartLogsWarnings(t *testing.T) {
	got := started(t, `"front":{`+testcaddy.NoRedirects+`,"tls_connection_policies":[{"client_authentication":{"mode":"require"}}],"routes":[`+oneGuard+`]}`)
	if len(got) != 1 || got[0]["level"] != "warn" || got[0]["server"] != "front" || !strings.Contains(fmt.Sprint(got[0]["msg"]), "insecure_off") {
		t.Errorf("logged %v, want one warning", got)
	}
}

// A server without any connreuse module is warned about as well, since
// strict_sni_host is often turned off for all servers at once.
func TestStartWarnsOfOtherServers(t *testing.T) {
	for _, test := range []struct {
		name, server string
		want         string // the sites; "" is no warning
	}{
		{"client certificates for one site", `"strict_sni_host":false,"tls_connection_policies":[{"match":{"sni":["m.test"]},"client_authentication":{"mode":"require"}},{}],"routes":[{"match":[{"host":["m.test","a.test"]}],"terminal":true},{}]`, "[m.test]"},
		{"client certificates for the rest", `"strict_sni_host":false,"tls_connection_policies":[{"match":{"sni":["a.test"]}},{"client_authentication":{"mode":"require"}}],"routes":[{"match":[{"host":["a.test"]}],"terminal":true},{}]`, "[catch-all (route 1)]"},
		{"client certificates for all", `"strict_sni_host":false,"tls_connection_policies":[{"client_authentication":{"mode":"require"}}],"routes":[{"match":[{"host":["m.test"]}]}]`, ""},
		{"client certificates outside of one network", `"strict_sni_host":false,"tls_connection_policies":[{"match":{"sni":["m.test"],"remote_ip":{"not_ranges":["10.0.0.0/8"]}},"client_authentication":{"mode":"require"}},{}],"routes":[{"match":[{"host":["m.test","a.test"]}]}]`, "[m.test]"},
		{"strict_sni_host", `"strict_sni_host":true,"tls_connection_policies":[{"match":{"sni":["m.test"]},"client_authentication":{"mode":"require"}},{}],"routes":[{"match":[{"host":["m.test","a.test"]}]}]`, ""},
		{"no client certificates", `"strict_sni_host":false,"tls_connection_policies":[{}],"routes":[{"match":[{"host":["m.test","a.test"]}]}]`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			for _, entry := range started(t, `"front":{`+testcaddy.NoRedirects+`,"tls_connection_policies":[{}],"routes":[`+oneGuard+`]},
				"other":{"listen":["127.0.0.1:9443"],"automatic_https":{"disable_redirects":true,"disable_certificates":true},`+test.server+`}`) {
				if entry["server"] != "other" {
					t.Errorf("warned of %v", entry)
				}
				got += fmt.Sprint(entry["sites"])
			}
			if got != test.want {
				t.Errorf("warned of %q, want %q", got, test.want)
			}
		})
	}
}
