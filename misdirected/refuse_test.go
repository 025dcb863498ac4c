package misdirected

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	h2peer "github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// With close, a 421 ends the connection of HTTP/1.1 and HTTP/2, for clients that never
// ask again by themselves. In HTTP/3 the field would make the response malformed.
func TestCloseEndsTheConnection(t *testing.T) {
	port := testcaddy.FreePort(t)
	for _, closes := range []bool{false, true} {
		run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, fmt.Sprintf(`"tls_connection_policies":[{}],"routes":[{"handle":[{"handler":"misdirected","close":%t},%s]}]`, closes, witnessing("site")))
		for _, test := range []struct {
			host   string
			status int
			ends   bool
		}{{"shop.wire.test", 200, false}, {"blog.wire.test", 421, closes}, {"a..b", 400, false}} {
			c := tlsConn(t, nil, port, clientTLS("shop.wire.test"), "http/1.1")
			r := bufio.NewReader(c)
			status, _, _, err := exchange(c, r, "GET", "GET / HTTP/1.1\r\nHost: "+test.host+"\r\n\r\n")
			if err != nil || status != test.status {
				t.Fatalf("h1, %s: %d (%v)", test.host, status, err)
			}
			_, _, _, err = exchange(c, r, "GET", "GET / HTTP/1.1\r\nHost: shop.wire.test\r\n\r\n")
			if (err != nil) != test.ends {
				t.Errorf("h1, %s, close %t: the next request ends with %v", test.host, closes, err)
			}
			if got := goesAway(t, port, test.host); got != test.ends {
				t.Errorf("h2, %s, close %t: GOAWAY is %t", test.host, closes, got)
			}
			h3 := dial(t, "h3", nil, port, clientTLS("shop.wire.test"))
			status, header, _, err := h3.do("GET", test.host, "")
			if err != nil || status != test.status || header.Get("Connection") != "" {
				t.Errorf("h3, %s: %d with Connection %q (%v)", test.host, status, header.Get("Connection"), err)
			}
			if status, _, _, err := h3.do("GET", "shop.wire.test", ""); err != nil || status != 200 {
				t.Errorf("h3, %s: the next request ends with %d (%v)", test.host, status, err)
			}
		}
	}
	witnessed()
}

// goesAway asks for a host over HTTP/2, and tells whether GOAWAY comes with the answer
// to that or to a PING behind it.
func goesAway(t *testing.T, port int, host string) bool {
	t.Helper()
	peer, err := h2peer.Client(tlsConn(t, nil, port, clientTLS("shop.wire.test"), "h2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Headers(1, true, [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", host}}...); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := peer.Next()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.GoAwayFrame:
			return true
		case *http2.DataFrame:
			if f.StreamEnded() {
				if err := peer.WritePing(false, [8]byte{1}); err != nil {
					t.Fatal(err)
				}
			}
		case *http2.PingFrame:
			if f.IsAck() {
				return false
			}
		}
	}
}

// A refusal of HEAD has the fields of that of GET and no content, and one with a body
// leaves the connection in step.
//
// Checklist: M6, M19, M20.
func TestRefusalsKeepTheConnectionInStep(t *testing.T) {
	port := testcaddy.FreePort(t)
	run(t, testcaddy.TLSApp(t, `{}`, wireNames), port, `"tls_connection_policies":[{}],"routes":[{"handle":[`+
		`{"handler":"headers","response":{"set":{"Etag":["\"x\""],"Content-Encoding":["br"],"Alt-Svc":["h3=\":1\""]}}},{"handler":"misdirected"},`+witnessing("site")+`]}]`)
	c := tlsConn(t, nil, port, clientTLS("shop.wire.test"), "http/1.1")
	r := bufio.NewReader(c)
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: shop.wire.test\r\n\r\n"
	for _, test := range []struct{ method, fields, body string }{
		{"GET", "", ""},
		{"HEAD", "", ""},
		{"POST", fmt.Sprintf("Content-Length: %d\r\n", len(smuggled)), smuggled},
		{"POST", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)},
		{"GET", "", ""},
	} {
		status, header, body, err := exchange(c, r, test.method, test.method+" / HTTP/1.1\r\nHost: blog.wire.test\r\n"+test.fields+"\r\n"+test.body)
		want := refused421
		if test.method == "HEAD" {
			want = ""
		}
		if err != nil || status != 421 || body != want || header.Get("Content-Length") != fmt.Sprint(len(refused421)) || header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s %q: %d %q with %v (%v)", test.method, test.fields, status, body, header, err)
		}
		for _, field := range []string{"Etag", "Content-Encoding", "Alt-Svc"} {
			if header.Get(field) != "" {
				t.Errorf("%s: the refusal has %s: %s", test.method, field, header.Get(field))
			}
		}
	}
	if status, _, body, err := exchange(c, r, "GET", "GET /last HTTP/1.1\r\nHost: shop.wire.test\r\n\r\n"); err != nil || status != 200 || body != "site" {
		t.Errorf("behind the refusals: %d %q (%v)", status, body, err)
	}
	if saw := witnessed(); len(saw) != 1 || !strings.HasPrefix(saw[0], "site /last") {
		t.Errorf("seen: %q", saw)
	}
}

// sourced is an IP source of another author. It needs a request with an address.
type sourced struct {
	Name string `json:"name"`
}

var sources struct {
	loaded int
	asked  []string
}

func init() { caddy.RegisterModule(sourced{}) }

func (sourced) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.ip_sources.test_sourced", New: func() caddy.Module { return new(sourced) }}
}

func (s *sourced) Provision(caddy.Context) error {
	sources.loaded++
	return nil
}

func (s *sourced) GetIPRanges(r *http.Request) []netip.Prefix {
	sources.asked = append(sources.asked, r.RemoteAddr)
	return []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}
}

// Gateways come from any IP source of Caddy. Sites of one server often import the same
// block, so equal sources are loaded once; explain asks them with a request, too.
func TestGatewaysFromAnIPSource(t *testing.T) {
	sources.loaded, sources.asked = 0, nil
	gate := func(name string) string {
		return `{"handler":"misdirected","trusted_gateways":{"name":"` + name + `","source":"test_sourced"}}`
	}
	srv := serve(t, gate("one")+`,`+gate("one")+`,`+strings.Replace(gate("one"), `"name":"one","source":"test_sourced"`, `"source":"test_sourced", "name":"one"`, 1)+`,`+gate("other"), "")
	if sources.loaded != 2 {
		t.Errorf("%d sources were loaded, want 2", sources.loaded)
	}
	ask := func(remote string) (int, string) {
		r := over("a.test", "b.test")
		r.RemoteAddr = remote
		w := new(recorder)
		srv.ServeHTTP(w, r)
		return w.status, w.String()
	}
	if status, body := ask("10.1.2.3:1"); status != 200 || !bytes.Contains([]byte(body), []byte("trusted_gateway")) {
		t.Errorf("a gateway gets %d %s", status, body)
	}
	if status, _ := ask("11.1.2.3:1"); status != 421 {
		t.Errorf("somebody else gets %d", status)
	}
	handler := srv.Routes[0].Handlers[0].(*Handler)
	if v := handler.explain(handler.server.Snapshot(), "a.test", "b.test"); v.Status != 421 || !strings.Contains(v.Options, "trusted_gateways test_sourced") {
		t.Errorf("explained as %+v", v)
	}
	for _, addr := range sources.asked {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			t.Errorf("asked with the address %q", addr)
		}
	}
}
