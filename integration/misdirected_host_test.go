package integration

import (
	"go/build"
	"slices"
	"testing"
)

// TestNoForwardProxy: where there is no forward proxy, a request of the form that
// one is asked by is judged like any other.
//
// Checklist: M3, M26.
func TestNoForwardProxy(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, protocol := range protocols {
		for _, host := range []string{"elsewhere.test:443", "m.x.test:443"} {
			conn := dialers[protocol](t, c.addr, clientTLS("a.x.test"))
			if got := conn.do(ask{method: "CONNECT", authority: host, target: host}); got.status != 421 {
				t.Errorf("%s: CONNECT %s: %v, want 421", protocol, host, got)
			}
			conn.close()
		}
	}
	conn := dialH1(t, c.addr, clientTLS("a.x.test"))
	if got := conn.do(ask{authority: "elsewhere.test", target: "http://elsewhere.test/"}); got.status != 421 {
		t.Errorf("absolute-form elsewhere: %v, want 421", got)
	}
	if got := conn.do(ask{authority: "elsewhere.test", target: "http://a.x.test/"}); got.status != 200 || got.body != "a" {
		t.Errorf("absolute-form of the connection's own host: %v, want its 200", got)
	}
}

// A Host that names another host than :authority makes the request malformed (RFC
// 9113 8.3.1). Before Go 1.27 net/http resets any that is not equal byte by byte;
// since then the request comes to the gate, which compares the hosts they name.
//
// Checklist: M7, M8.
func TestAuthorityBesideHost(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	reset := answer{reset: "PROTOCOL_ERROR"}
	ok := answer{status: 200, body: "a"}
	refused := answer{status: 400}
	for _, test := range []struct {
		authority, host string
		want, before127 answer
	}{
		{"b.x.test", "a.x.test", refused, reset},
		{"a.x.test", "b.x.test", refused, reset},
		{"a.x.test", "A.x.test", ok, reset},
		{"a.x.test", "A.x.test:443", ok, reset},
		{"a.x.test", "a.x.test", ok, ok},
		{"-", "a.x.test", ok, ok},
		{"-", "b.x.test", answer{status: 421}, answer{status: 421}},
	} {
		want := test.want
		if !slices.Contains(build.Default.ReleaseTags, "go1.27") {
			want = test.before127
		}
		conn := dialH2(t, c.addr, clientTLS("a.x.test"))
		got := conn.do(ask{authority: test.authority, header: [][2]string{{"host", test.host}}})
		if got.reset != want.reset || got.status != want.status || want.body != "" && got.body != want.body {
			t.Errorf("SNI a.x.test, :authority %s, Host %s: %v, want %v", test.authority, test.host, got, want)
		}
	}
}

// TestAbsoluteForm: absolute-form beats Host, in both directions.
//
// Checklist: M9.
func TestAbsoluteForm(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	conn := dialH1(t, c.addr, clientTLS("a.x.test"))
	if got := conn.do(ask{authority: "a.x.test", target: "https://b.x.test/"}); got.status != 421 {
		t.Errorf("target b, Host a: %v, want 421", got)
	}
	if got := conn.do(ask{authority: "b.x.test", target: "https://a.x.test/"}); got.body != "a" {
		t.Errorf("target a, Host b: %v, want 200", got)
	}
}

// TestMissingOrDoubleHost: what net/http says of Host in HTTP/1.x stays as it is, and a request
// without host never gets another site's content.
//
// Checklist: M10, M11.
func TestMissingOrDoubleHost(t *testing.T) {
	c := startCaddy(t, strictOff, sites("scope sni", ""), siteNames)
	for _, test := range []struct {
		sni, text string
		status    int
		body      string
	}{
		{"a.x.test", "GET / HTTP/1.1\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a.x.test\r\nHost: a.x.test\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a.x.test\r\nHost: b.x.test\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.1\r\nHost: a..x.test\r\n\r\n", 400, ""},
		{"a.x.test", "GET / HTTP/1.0\r\n\r\n", 200, "catch-all"},
		{"a.x.test", "GET / HTTP/1.0\r\nHost: a.x.test\r\n\r\n", 200, "a"},
		{"a.x.test", "GET / HTTP/1.0\r\nHost: b.x.test\r\n\r\n", 421, ""},
		{"", "GET / HTTP/1.0\r\n\r\n", 200, "catch-all"},
	} {
		conn := dialH1(t, c.addr, clientTLS(test.sni)).(*h1)
		got := conn.raw(test.text, "GET")
		if got.status != test.status || test.body != "" && got.body != test.body {
			t.Errorf("SNI %q, %q: %v, want %d %s", test.sni, test.text, got, test.status, test.body)
		}
	}
}

// M21 RFC 8441: a WebSocket over HTTP/2 is judged by its :authority.
//
// Checklist: M21.
func TestExtendedConnect(t *testing.T) {
	b := startBackend(t)
	c := startCaddy(t, strictOff, sites("scope sni", b.addr), siteNames, "GODEBUG=http2xconnect=1")
	websocket := func(host string) ask {
		return ask{method: "CONNECT", authority: host, target: "/chat", header: [][2]string{{":protocol", "websocket"}, {"sec-websocket-version", "13"}}}
	}
	for _, test := range []struct {
		sni  string
		want int
		seen int
	}{{"a.x.test", 421, 0}, {"post.x.test", 200, 1}} {
		conn := dialH2(t, c.addr, clientTLS(test.sni)).(*h2)
		if conn.do(ask{authority: test.sni, method: "HEAD"}); !conn.extendedConnect {
			t.Fatal("the server does not allow extended CONNECT")
		}
		b.take()
		if got := conn.do(websocket("post.x.test")); got.status != test.want {
			t.Errorf("WebSocket over a connection for %s: %v, want %d", test.sni, got, test.want)
		}
		if seen := b.take(); len(seen) != test.seen {
			t.Errorf("WebSocket over a connection for %s: the backend saw %q", test.sni, seen)
		}
	}
}
