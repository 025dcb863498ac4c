package origin

import (
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

func TestUnmarshalCaddyfile(t *testing.T) {
	for _, test := range []struct {
		in   string
		want ListenerWrapper
		err  string
	}{
		{in: `origin`},
		{in: "origin {\n}"},
		{in: "origin {\n origins auto\n}", want: ListenerWrapper{Origins: []string{"auto"}}},
		{in: "origin {\n origins none\n}", want: ListenerWrapper{Origins: []string{"none"}}},
		{
			in:   "origin {\n origins https://a.test https://b.test:8443\n public_port 443\n max_origins 1000\n}",
			want: ListenerWrapper{Origins: []string{"https://a.test", "https://b.test:8443"}, PublicPort: 443, MaxOrigins: 1000},
		},
		{in: "origin {\n origins sites\n http3\n}", want: ListenerWrapper{Origins: []string{"sites"}, HTTP3: true}},
		{in: "origin {\n http3 on\n}", err: "wrong argument count"},
		{in: "origin {\n origins sites none\n}", err: "reading origins 'sites': must stand alone"},
		{in: "origin x", err: "wrong argument count"},
		{in: "origin {\n origin auto\n}", err: "unknown option 'origin': must be origins, public_port, max_origins or http3"},
		{in: "origin {\n origins\n}", err: "wrong argument count"},
		{in: "origin {\n origins auto {\n x\n }\n}", err: "option 'origins' takes no block"},
		{in: "origin {\n origins auto\n origins auto\n}", err: "option 'origins' is given twice"},
		{in: "origin {\n origins auto https://a.test\n}", err: "reading origins 'auto': must stand alone"},
		{in: "origin {\n origins none none\n}", err: "reading origins 'none': must stand alone"},
		{in: "origin {\n origins https://*.a.test\n}", err: "reading origin 'https://*.a.test': must be https://<host> or https://<host>:<port>: a wildcard"},
		{in: "origin {\n origins a.test\n}", err: "reading origin 'a.test'"},
		{in: "origin {\n origins https://a.test https://A.test:443\n}", err: "reading origin 'https://A.test:443': must be listed only once, and is before as 'https://a.test'"},
		{in: "origin {\n public_port\n}", err: "wrong argument count"},
		{in: "origin {\n public_port 1 2\n}", err: "wrong argument count"},
		{in: "origin {\n public_port 0\n}", err: "reading public_port '0': must be a number from 1 to 65535"},
		{in: "origin {\n public_port 65536\n}", err: "reading public_port '65536'"},
		{in: "origin {\n public_port https\n}", err: "reading public_port 'https'"},
		{in: "origin {\n max_origins 0\n}", err: "reading max_origins '0': must be a number from 1 to 1000"},
		{in: "origin {\n max_origins 1001\n}", err: "reading max_origins '1001'"},
		{in: "origin {\n max_origins 5\n origins none\n}", err: "reading max_origins '5': must not be set with origins none"},
		{in: "origin {\n origins none\n public_port 5\n}", err: "reading public_port '5': must not be set with origins none"},
	} {
		t.Run(test.in, func(t *testing.T) {
			var got ListenerWrapper
			err := got.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.in))
			switch {
			case test.err == "" && (err != nil || !reflect.DeepEqual(got, test.want)):
				t.Errorf("= %+v, %v; want %+v", got, err, test.want)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("error = %v, want one with %q", err, test.err)
			}
		})
	}
}

// Bad configuration is refused at load, all of it at once.
func TestProvisionErrors(t *testing.T) {
	for _, test := range []struct{ wrappers, want string }{
		{`{"wrapper":"origin","origins":["http://a.test"]}`, "reading origin 'http://a.test'"},
		{`{"wrapper":"origin","origins":["http://a.test","https://a.test/"]}`, "reading origin 'https://a.test/'"},
		{`{"wrapper":"origin","origins":["http://a.test"],"max_origins":-1}`, "reading max_origins '-1': must be from 1 to 1000"},
		{`{"wrapper":"origin","max_origins":1001}`, "reading max_origins '1001'"},
		{`{"wrapper":"origin","public_port":65536}`, "reading public_port '65536'"},
		{`{"wrapper":"origin","public_port":-1}`, "reading public_port '-1'"},
		{`{"wrapper":"origin","port":1}`, "unknown field"},
		{`{"wrapper":"origin","origins":["https://a.test"` + strings.Repeat(`,"https://b.test"`, 1000) + `]}`, "there are 1001, must be at most 1000"},
		{`{"wrapper":"origin"},{"wrapper":"tls"}`, "origin must stand behind tls"},
		{`{"wrapper":"origin"},{"wrapper":"origin"}`, "origin must be listed only once"},
		{`{"wrapper":"http_redirect"},{"wrapper":"tls"},{"wrapper":"origin"}`, ""},
		{`{"wrapper":"proxy_protocol"},{"wrapper":"http_redirect"},{"wrapper":"tls"},{"wrapper":"origin"}`, ""},
		{`{"wrapper":"proxy_protocol"},{"wrapper":"origin"}`, "'proxy_protocol' must stand in front of tls, and tls in front of origin, as in 'proxy_protocol tls origin'"},
		{`{"wrapper":"http_redirect"},{"wrapper":"origin"}`, "'http_redirect' must stand in front of tls"},
		{`{"wrapper":"layer4"},{"wrapper":"origin"}`, "'layer4' must stand in front of tls"},
		{`{"wrapper":"http_redirect"},{"wrapper":"tls"},{"wrapper":"proxy_protocol"},{"wrapper":"origin"}`, "'proxy_protocol' must stand in front of tls"},
		{`{"wrapper":"http_redirect"},{"wrapper":"tls"},{"wrapper":"origin"},{"wrapper":"proxy_protocol"}`, "'proxy_protocol' must stand in front of tls"},
		{`{"wrapper":"origin"},{"wrapper":"http_redirect"}`, "'http_redirect' must stand in front of tls"},
		{`{"wrapper":"test_after"},{"wrapper":"origin"}`, ""},
		{`{"wrapper":"origin","origins":[],"max_origins":0,"public_port":0}`, ""},
	} {
		_, err := caddy.ProvisionContext(testcaddy.Config(t, `{"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,"tls_connection_policies":[{}],"listener_wrappers":[`+test.wrappers+`]}}}}`, ""))
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.wrappers, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: error = %v, want one with %q", test.wrappers, err, test.want)
		}
	}
}

// HTTP/2 on some listeners of a server only: Caddy would hang up on clients that
// select it on the others. Where there is no TLS, or no listener, nobody can.
func TestListenProtocols(t *testing.T) {
	const two, policies = `"listen":["127.0.0.1:1","127.0.0.1:2"]`, `,"tls_connection_policies":[{}]`
	for _, test := range []struct{ server, want string }{
		{two + policies + `,"listen_protocols":[["h1"],["h1","h2"]]`, "'127.0.0.1:2' has it and '127.0.0.1:1' has not"},
		{two + policies + `,"listen_protocols":[null,["h1"]]`, "'127.0.0.1:1' has it and '127.0.0.1:2' has not"},
		{two + policies + `,"listen_protocols":[["h1","h3"],["h2"]]`, "'127.0.0.1:2' has it and '127.0.0.1:1' has not"},
		{two + policies + `,"listen_protocols":[["h1"],["h1"]]`, ""},
		{two + policies + `,"listen_protocols":[["h2"],["h1","h2"]]`, ""},
		{two + policies + `,"listen_protocols":[["h3"],["h1","h2"]]`, ""},
		{two + policies + `,"protocols":["h1"],"listen_protocols":[null,["h1"]]`, ""},
		{two + policies, ""},
		{two + `,"listen_protocols":[["h1"],["h1","h2"]]`, ""},
		{`"listen":["127.0.0.1:8080","127.0.0.1:1"],"listen_protocols":[["h1"],["h1","h2"]]` + policies, ""},
		{`"listen":["127.0.0.1:8080","127.0.0.1:1"],"listen_protocols":[["h1","h2"],["h1"]]` + policies, "'127.0.0.1:8080' has it and '127.0.0.1:1' has not"},
		{`"listen":["127.0.0.1:8080-8081","127.0.0.1:1"],"listen_protocols":[["h1"],["h1","h2"]]` + policies, "'127.0.0.1:1' has it and '127.0.0.1:8080-8081' has not"},
		{`"listen":["unix//run/caddy.sock","127.0.0.1:1"],"listen_protocols":[["h1"],["h1","h2"]]` + policies, "'127.0.0.1:1' has it and 'unix//run/caddy.sock' has not"},
	} {
		_, err := caddy.ProvisionContext(testcaddy.Config(t, `{"http":{"http_port":8080,"servers":{"srv0":{"automatic_https":{"disable":true},"listener_wrappers":[{"wrapper":"origin"}],`+test.server+`}}}}`, ""))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error = %v, want one with %q", test.server, err, test.want)
		}
	}
}

// The port without TLS is 80 unless the http app has another.
func TestDefaultHTTPPort(t *testing.T) {
	for port, refused := range map[int]bool{80: false, 8080: true} {
		_, err := caddy.ProvisionContext(testcaddy.Config(t, fmt.Sprintf(`{"http":{"servers":{"srv0":{"automatic_https":{"disable":true},"tls_connection_policies":[{}],
			"listener_wrappers":[{"wrapper":"origin"}],"listen":["127.0.0.1:%d","127.0.0.1:1"],"listen_protocols":[["h1"],["h1","h2"]]}}}}`, port), ""))
		if (err != nil) != refused {
			t.Errorf("h1 alone on port %d: error = %v", port, err)
		}
	}
}

// An option that is not set is not in JSON.
func TestJSON(t *testing.T) {
	text, err := json.Marshal(new(ListenerWrapper))
	if err != nil || string(text) != `{}` {
		t.Errorf("%s, %v", text, err)
	}
}

// O6 RFC 8336 2.3: the connection's own origin is not in the frame. O14: nor are
// more than max_origins.
//
// Checklist: O6, O14.
func TestChoice(t *testing.T) {
	names := strings.Fields
	for _, test := range []struct {
		name    string
		config  ListenerWrapper
		sni     string
		port    uint16
		names   []string
		in, cut string
	}{
		{"automatic, with the listener's port", ListenerWrapper{}, "a.test", 8443, names("b.test ::1"), "[https://b.test:8443 https://[::1]:8443]", "[]"},
		{"the default limit", ListenerWrapper{}, "a.test", 443, numbered(33), fmt.Sprint(origins(numbered(32))), "[https://n032.test]"},                  // Checklist: O14.
		{"a limit", ListenerWrapper{MaxOrigins: 1}, "a.test", 443, names("b.test c.test d.test"), "[https://b.test]", "[https://c.test https://d.test]"}, // Checklist: O14.
		{"a list, ports as listed", ListenerWrapper{Origins: names("https://c.test:1 https://b.test https://c.test")}, "a.test", 8443, names("c.test b.test"), "[https://c.test:1 https://c.test https://b.test]", "[]"},
		{"its own origin is left out", ListenerWrapper{Origins: names("https://a.test https://a.test:8443")}, "a.test", 8443, names("a.test"), "[https://a.test]", "[]"},
		{"what was not found fitting is left out", ListenerWrapper{Origins: names("https://b.test https://c.test")}, "a.test", 443, names("c.test"), "[https://c.test]", "[]"},
		{"nothing", ListenerWrapper{}, "a.test", 443, nil, "[]", "[]"},
	} {
		ch, _, err := test.config.compile()
		if err != nil {
			t.Fatal(err)
		}
		in, cut := ch.origins(test.sni, test.port, test.names)
		if fmt.Sprint(in) != test.in || fmt.Sprint(cut) != test.cut {
			t.Errorf("%s: %v and %v, want %s and %s", test.name, in, cut, test.in, test.cut)
		}
	}
}

func numbered(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("n%03d.test", i))
	}
	return names
}

func origins(names []string) (list []origin) {
	for _, name := range names {
		list = append(list, origin{name, 443})
	}
	return list
}

// O6 RFC 8336 2.3: behind a port mapping, the public port.
//
// Checklist: O6.
func TestPort(t *testing.T) {
	for _, test := range []struct {
		public uint16
		local  net.Addr
		want   uint16
	}{
		{0, &net.TCPAddr{Port: 8443}, 8443},
		{443, &net.TCPAddr{Port: 8443}, 443},
		{0, fakeAddr("192.0.2.1:8443"), 8443},
		{0, fakeAddr("[2001:db8::1]:443"), 443},
		{0, &net.UnixAddr{Name: "/run/caddy.sock", Net: "unix"}, 0},
		{443, &net.UnixAddr{Name: "/run/caddy.sock", Net: "unix"}, 443},
		{0, nil, 0},
	} {
		if got := (&choice{public: test.public}).port(test.local); got != test.want {
			t.Errorf("public port %d on %v: %d, want %d", test.public, test.local, got, test.want)
		}
	}
}

// The limits are net/http's: for a handshake, the smallest of all that are set;
// for a header, the one that is for headers if set.
func TestServerTimeouts(t *testing.T) {
	const s = caddy.Duration(time.Second)
	for _, test := range []struct {
		header, read, write    caddy.Duration
		wantShake, wantRequest time.Duration
	}{
		{0, 0, 0, 0, 0},
		{3 * s, 0, 0, 3 * time.Second, 3 * time.Second},
		{3 * s, 2 * s, 0, 2 * time.Second, 3 * time.Second},
		{3 * s, 2 * s, 1 * s, 1 * time.Second, 3 * time.Second},
		{3 * s, 4 * s, 5 * s, 3 * time.Second, 3 * time.Second},
		{0, 4 * s, 5 * s, 4 * time.Second, 4 * time.Second},
		{-1, 4 * s, 0, 4 * time.Second, -1},
	} {
		l := &ListenerWrapper{server: &caddyhttp.Server{ReadHeaderTimeout: test.header, ReadTimeout: test.read, WriteTimeout: test.write}}
		if shake, request := l.timeouts(); shake != test.wantShake || request != test.wantRequest {
			t.Errorf("%v: %v and %v", test, shake, request)
		}
	}
}

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }
