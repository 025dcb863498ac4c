package origin

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// O13 RFC 8336 2.4: listed names outside of the certificate are left out, with
// one warning that names them; one for each other reason, and for the limit.
//
// Checklist: O13.
func TestWarningsForListedOrigins(t *testing.T) {
	port := freePort(t)
	log := start(t, testcaddy.TLSApp(t, `{}`, []string{"a.warn.test", "b.warn.test", "c.warn.test", "m.warn.test", "g.warn.test", "gone.warn.test"}, []string{"far.warn.test"}),
		wrapped(port, `,"max_origins":1,"origins":["https://far.warn.test","https://b.warn.test","https://nowhere.test","https://c.warn.test:8443","https://m.warn.test","https://g.warn.test","https://gone.warn.test","https://other.warn.test"]`,
			`"tls_connection_policies":[{"match":{"sni":["m.warn.test"]},"client_authentication":{"mode":"request"}},{"default_sni":"a.warn.test"}],"routes":[
			{"match":[{"host":["g.warn.test"]}],"handle":[{"handler":"misdirected"}]},`+hostRoutes("a.warn.test", "b.warn.test", "c.warn.test", "m.warn.test", "far.warn.test", "other.warn.test")+`]`))
	dialH2(t, port, "").origins() // judges no name, and must not use up a warning
	for range 3 {
		if got := dialH2(t, port, "a.warn.test").origins(); !slices.Equal(got, []string{"https://b.warn.test"}) {
			t.Errorf("told %v", got)
		}
		dialH2(t, port, "far.warn.test").origins()
	}
	want := map[string]string{
		"the certificate presented for the server name does not cover it": "[far.warn.test other.warn.test]",
		"no site of this server is there for it":                          "[nowhere.test gone.warn.test]",
		"it has another TLS connection policy than the server name":       "[m.warn.test]",
		"a request for it would be answered 421 on this connection":       "[g.warn.test]",
		"there are more origins than max_origins":                         "[https://c.warn.test:8443]",
	}
	got := make(map[string]string)
	for _, line := range logged(t, log, "caddy.listeners.origin") {
		if line["level"] != "warn" || line["sni"] != "a.warn.test" || got[line["reason"].(string)] != "" {
			t.Errorf("unexpected: %v", line)
		}
		got[line["reason"].(string)] = fmt.Sprint(line["origins"])
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("warnings\n%v, want\n%v", got, want)
	}
}

// What is left out of automatic origins is as configured: nobody is warned, but
// for the limit and for a listener without a port.
//
// Checklist: O13.
func TestNoWarningsForAutomaticOrigins(t *testing.T) {
	port, socket := freePort(t), t.TempDir()+"/s"
	names := []string{"a.quiet.test", "b.quiet.test", "c.quiet.test"}
	log := start(t, testcaddy.TLSApp(t, `{}`, names), wrapped(port, "", onePolicy+`"routes":[{"match":[{"host":["a.quiet.test","b.quiet.test","c.quiet.test"]}],"handle":[{"handler":"misdirected"}]}]`),
		`{"listen":["unix/`+socket+`"],"automatic_https":{"disable":true},"listener_wrappers":[{"wrapper":"origin"}],`+onePolicy+`"routes":[`+hostRoutes(names...)+`]}`)
	if got := dialH2(t, port, "a.quiet.test").origins(); len(got) != 0 {
		t.Errorf("told %v", got)
	}
	lines := logged(t, log, "caddy.listeners.origin")
	if len(lines) != 1 || lines[0]["level"] != "debug" || fmt.Sprint(lines[0]["origins"]) != "[b.quiet.test c.quiet.test]" {
		t.Errorf("log: %v", lines)
	}

	raw, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// What cannot be named must not be taken away either.
	openH2(t, tls.Client(raw, clientTLS("a.quiet.test", "h2"))).noOrigins("a.quiet.test")
	lines = logged(t, log, "caddy.listeners.origin")
	if last := lines[len(lines)-1]; last["level"] != "warn" || last["reason"] != noPort {
		t.Errorf("log: %v", last)
	}
}

// Where a frame keeps back names that only a wildcard covers, one line says how many,
// and what would advertise them. Where there is no frame, nothing is kept back.
//
// Checklist: O17, O19.
func TestWithheldNamesAreCountedOnce(t *testing.T) {
	names := []string{"a.withheld.test", "b.withheld.test", "c.withheld.test"}
	private := `,{"match":[{"host":["private.withheld.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}],"handle":[{"handler":"static_response"}]}`
	guarded := `,{"match":[{"host":["guarded.withheld.test"]}],"handle":[{"handler":"misdirected"}]}`
	for _, test := range []struct {
		name, options, routes string
		frame                 bool
		want                  string
	}{
		{"nothing is refused", ``, hostRoutes(names...) + private, false, "[]"},
		{"something is refused", ``, hostRoutes(names...) + private + guarded, true, "[2 a.withheld.test]"},
		{"all are advertised", `,"origins":["sites"]`, hostRoutes(names...) + private + guarded, true, "[]"},
		{"all are refused", ``, `{"match":[{"host":["a.withheld.test","b.withheld.test"]}],"handle":[{"handler":"misdirected"}]}`, true, "[]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			log := start(t, testcaddy.TLSApp(t, `{}`, []string{"*.withheld.test"}), wrapped(port, test.options, onePolicy+`"routes":[`+test.routes+`]`))
			for _, sni := range []string{"a.withheld.test", "b.withheld.test", "a.withheld.test"} {
				if h := dialH2(t, port, sni); test.frame {
					h.origins()
				} else {
					h.noOrigins(sni)
				}
			}
			counted := []any{}
			for _, line := range logged(t, log, "caddy.listeners.origin") {
				if line["level"] == "info" {
					counted = append(counted, line["names"], line["sni"])
				}
			}
			if fmt.Sprint(counted) != test.want {
				t.Errorf("counted %v, want %s", counted, test.want)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.metrics.test", "b.metrics.test", "c.metrics.test"}), wrapped(port, `,"public_port":443,"origins":["sites"],"max_origins":1`, onePolicy+`"routes":[`+hostRoutes("a.metrics.test", "b.metrics.test", "c.metrics.test")+`]`))
	read := func() (values [4]float64) {
		for i, vec := range []*prometheus.CounterVec{framesTotal, originsTotal, bytesTotal, cutTotal} {
			values[i] = testutil.ToFloat64(vec.WithLabelValues("srv0"))
		}
		return values
	}
	before := read()
	for range 3 {
		dialH2(t, port, "a.metrics.test").origins()
	}
	dial(t, port, "a.metrics.test", "http/1.1")
	// an entry is 2 + len("https://b.metrics.test")
	want := [4]float64{3, 3, 3 * (9 + 2 + 22), 3}
	poll.Until(t, "the counters", func() bool {
		after := read()
		for i := range after {
			after[i] -= before[i]
		}
		return after == want
	})
}
