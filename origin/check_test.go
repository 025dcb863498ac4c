package origin

import (
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

func init() { caddy.RegisterModule(layer4Wrapper{}) }

// layer4Wrapper has the name of the listener wrapper of caddy-l4.
type layer4Wrapper struct{ afterWrapper }

func (layer4Wrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.layer4", New: func() caddy.Module { return new(layer4Wrapper) }}
}

// Without TLS there is none to hide: a 'servers' block for all servers has the wrappers
// on those for plain HTTP as well.
func TestWrappersWithoutTLS(t *testing.T) {
	for _, wrappers := range []string{`{"wrapper":"proxy_protocol"},{"wrapper":"origin"}`, `{"wrapper":"http_redirect"},{"wrapper":"origin"}`} {
		if _, err := caddy.ProvisionContext(testcaddy.Config(t, `{"http":{"servers":{"srv0":{"listen":["127.0.0.1:8080"],
			"automatic_https":{"disable":true},"listener_wrappers":[`+wrappers+`]}}}}`, "")); err != nil {
			t.Errorf("%s: %v", wrappers, err)
		}
	}
}

// A wrapper that nobody here knows is warned of where it stands behind TLS.
func TestUnknownWrappersAreWarnedOf(t *testing.T) {
	for _, test := range []struct{ wrappers, want string }{
		{`{"wrapper":"test_after"},{"wrapper":"origin"}`, "[[test_after]]"},
		{`{"wrapper":"origin"},{"wrapper":"test_after"}`, "[[test_after]]"},
		{`{"wrapper":"test_after"},{"wrapper":"tls"},{"wrapper":"origin"}`, "[]"},
		{`{"wrapper":"proxy_protocol"},{"wrapper":"tls"},{"wrapper":"origin"}`, "[]"},
	} {
		log := t.TempDir() + "/log"
		testcaddy.Provision(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,"tls_connection_policies":[{}],"listener_wrappers":[`+test.wrappers+`]}}}}`, log)
		warned := []any{}
		for _, line := range logged(t, log, "caddy.listeners.origin") {
			if line["level"] == "warn" && line["server"] == "srv0" {
				warned = append(warned, line["wrappers"])
			}
		}
		if got := fmt.Sprint(warned); got != test.want {
			t.Errorf("%s: warned of %s, want %s", test.wrappers, got, test.want)
		}
	}
}

// A server with TLS and without the wrapper, beside one without TLS that has it, is
// what two 'servers' blocks come to of which only the first applies.
func TestWrapperOnServersWithoutTLSAlone(t *testing.T) {
	const (
		plain, secure = `{"listen":["127.0.0.1:8080"],"automatic_https":{"disable":true}%s}`, `{"listen":["127.0.0.1:8443"],"automatic_https":{"disable":true},"tls_connection_policies":[{}]%s}`
		wrapper       = `,"listener_wrappers":[{"wrapper":"origin"}]`
	)
	for _, test := range []struct {
		name, plain, secure string
		want                string
	}{
		{"on the plain one alone", fmt.Sprintf(plain, wrapper), fmt.Sprintf(secure, ""), "[plain [secure]]"},
		{"on both", fmt.Sprintf(plain, wrapper), fmt.Sprintf(secure, wrapper), "[]"},
		{"on the secure one alone", fmt.Sprintf(plain, ""), fmt.Sprintf(secure, wrapper), "[]"},
		{"no server has TLS", fmt.Sprintf(plain, wrapper), `{"listen":["127.0.0.1:8081"],"automatic_https":{"disable":true}}`, "[]"},
	} {
		app, err := testcaddy.Provision(t, `{"http":{"servers":{"plain":`+test.plain+`,"secure":`+test.secure+`}},"connreuse":{}}`, "").App("connreuse")
		if err != nil {
			t.Fatal(err)
		}
		got := []any{}
		for _, w := range app.(*authority.App).Warnings() {
			got = append(got, w.Server, w.Fields[0].Interface)
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%s: warned of %v, want %s", test.name, got, test.want)
		}
	}
}
