package origin

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// What connections are told is explained for each port of the listeners with TLS,
// before they are open.
//
// Checklist: O6.
func TestExplainedForEveryListener(t *testing.T) {
	apps := `{` + testcaddy.TLSApp(t, `{}`, []string{"a.explained.test", "b.explained.test"}) + `,"http":{"http_port":8080,"servers":{"srv0":{%s,"automatic_https":{"disable":true},
		"tls_connection_policies":[{}],"routes":[` + hostRoutes("a.explained.test", "b.explained.test") + `,{"handle":[{"handler":"test_probe","wrappers":[{%s}]}]}]}}}}`
	for _, test := range []struct{ listen, options, want string }{
		{`"listen":["127.0.0.1:8080","127.0.0.1:443"]`, ``, "443 tcp/127.0.0.1:443"},
		{`"listen":["127.0.0.1:8080-8082"]`, ``, "8081 tcp/127.0.0.1:8081; 8082 tcp/127.0.0.1:8082"},
		{`"listen":["127.0.0.1:80","[::1]:443","127.0.0.1:443"]`, ``, "80 tcp/127.0.0.1:80; 443 tcp/[::1]:443 tcp/127.0.0.1:443"},
		{`"listen":["127.0.0.1:8444","127.0.0.1:8443"],"listen_protocols":[["h3"],["h1","h2"]]`, ``, "8443 tcp/127.0.0.1:8443"},
		{`"listen":["unix//run/caddy.sock","fd/3","127.0.0.1:8443"]`, ``, "0 unix//run/caddy.sock fd/3; 8443 tcp/127.0.0.1:8443"},
		{`"listen":["unix//run/caddy.sock","127.0.0.1:8443"]`, `"public_port":444`, "444 unix//run/caddy.sock tcp/127.0.0.1:8443"},
		{`"listen":["127.0.0.1:8080"]`, ``, ""},
	} {
		srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, fmt.Sprintf(apps, test.listen, test.options), ""))
		w := srv.Routes[len(srv.Routes)-1].Handlers[0].(*probe).Wrappers[0]
		answers := w.ExplainOrigins("a.explained.test", true)
		if got := inWords(answers); got != test.want {
			t.Errorf("%s: %s, want %s", test.listen, got, test.want)
		}
		for _, e := range answers {
			frames := w.frames("a.explained.test", &net.TCPAddr{Port: int(e.Port)})
			if e.Frame != (frames.count > 0) {
				t.Errorf("%s, port %d: explained that there is a frame: %v, and %d are sent", test.listen, e.Port, e.Frame, frames.count)
			}
			if e.Frame && !slices.Equal(e.Origins, decode(t, frames.bytes)[0]) {
				t.Errorf("%s: explained as %v, but a connection to port %d is told %v", test.listen, e.Origins, e.Port, decode(t, frames.bytes)[0])
			}
		}
	}
}

// inWords lists ports and their listeners.
func inWords(answers []authority.OriginExplanation) string {
	var list []string
	for _, e := range answers {
		list = append(list, fmt.Sprint(e.Port, " ", strings.Join(e.Listeners, " ")))
	}
	return strings.Join(list, "; ")
}

// A port that the system chose, and that of an inherited socket, are known once the
// listener is open.
func TestExplainedAsOpened(t *testing.T) {
	inherited, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	file, err := inherited.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	port := inherited.Addr().(*net.TCPAddr).Port
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.opened.test", "b.opened.test"}),
		fmt.Sprintf(`{"listen":["127.0.0.1:0","fd/%d"],"protocols":["h1","h2"],"automatic_https":{"disable":true},"listener_wrappers":[{"wrapper":"origin"}],`, file.Fd())+
			onePolicy+`"routes":[`+hostRoutes("a.opened.test", "b.opened.test")+`]}`)

	answers := authority.Active()[0].ExplainOrigins("a.opened.test", false)
	if len(answers) != 2 || answers[0].Port == 0 || int(answers[1].Port) != port {
		t.Fatalf("explained for %s, want a port of the system's, and %d", inWords(answers), port)
	}
	for _, e := range answers {
		if got := dialH2(t, int(e.Port), "a.opened.test").origins(); !slices.Equal(got, e.Origins) || len(got) != 1 {
			t.Errorf("port %d: told %v, explained as %v", e.Port, got, e.Origins)
		}
	}
}

// A request is explained with what the frames of its server do.
func TestAdvertisedIsExplainedByMode(t *testing.T) {
	apps := `{` + testcaddy.TLSApp(t, `{}`, []string{"a.mode.test", "b.mode.test", "*.w.mode.test"}) + `,"http":{"servers":{"srv0":{` + testcaddy.NoRedirects + `,
		"tls_connection_policies":[{}],"routes":[` + hostRoutes("a.mode.test", "b.mode.test", "x.w.mode.test") + `,{"handle":[{"handler":"test_probe","wrappers":[{%s}]}]}]}}}}`
	for _, test := range []struct {
		options, host string
		want          authority.Absence
	}{
		{``, "b.mode.test", authority.Advertised},
		{``, "x.w.mode.test", authority.Withheld},
		{`"origins":["sites"]`, "x.w.mode.test", authority.Advertised},
		{`"origins":["https://x.w.mode.test"]`, "x.w.mode.test", authority.Advertised},
		{`"origins":["https://x.w.mode.test"]`, "b.mode.test", authority.NotListed},
		{`"origins":["none"]`, "b.mode.test", authority.NotListed},
	} {
		srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, fmt.Sprintf(apps, test.options), ""))
		e := srv.Routes[len(srv.Routes)-1].Handlers[0].(*probe).server.Explain("a.mode.test", test.host)
		if e.Advertised != (test.want == authority.Advertised) || e.AdvertisedWhy != test.want.String() {
			t.Errorf("{%s}, host %s: explained as %q, want %q", test.options, test.host, e.AdvertisedWhy, test.want)
		}
	}
}
