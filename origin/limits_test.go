package origin

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// afterWrapper stands behind origin, and shows what net/http gets.
type afterWrapper struct{}

var accepted = make(chan net.Conn, 1000)

func init() { caddy.RegisterModule(afterWrapper{}) }

func (afterWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.test_after", New: func() caddy.Module { return new(afterWrapper) }}
}

func (afterWrapper) WrapListener(ln net.Listener) net.Listener { return &afterListener{ln} }

type afterListener struct{ net.Listener }

func (l *afterListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		select {
		case accepted <- c:
		default:
		}
	}
	return c, err
}

// Known limit: *tls.Conn and its CloseWrite are hidden from what stands behind.
func TestLimitHidden(t *testing.T) {
	const name = "a.hidden.test"
	ports := []int{freePort(t), freePort(t)}
	start(t, testcaddy.TLSApp(t, `{}`, []string{name}),
		serverJSON(ports[0], `"listener_wrappers":[{"wrapper":"test_after"}],`+withoutOrigin+`"routes":[]`),
		serverJSON(ports[1], `"listener_wrappers":[{"wrapper":"origin"},{"wrapper":"test_after"}],`+withoutOrigin+`"routes":[]`))
	for i, port := range ports {
		for len(accepted) > 0 {
			<-accepted
		}
		dial(t, port, name)
		c := <-accepted
		_, isTLS := c.(*tls.Conn)
		_, canCloseWrite := c.(interface{ CloseWrite() error })
		_, hasState := c.(interface{ ConnectionState() tls.ConnectionState })
		if stock := i == 0; isTLS != stock || canCloseWrite != stock || !hasState {
			t.Errorf("server %d: *tls.Conn %t, CloseWrite %t, ConnectionState %t", i, isTLS, canCloseWrite, hasState)
		}
	}
}

// Known limit: SETTINGS leave once the client's preface is there, not before.
func TestLimitSettings(t *testing.T) {
	const name = "a.settings.test"
	ports := []int{freePort(t), freePort(t)}
	start(t, testcaddy.TLSApp(t, `{}`, []string{name}), serverJSON(ports[0], withoutOrigin+`"routes":[]`), serverJSON(ports[1], withOrigin+`"routes":[]`))
	for i, port := range ports {
		c := dial(t, port, name, "h2")
		if i == 1 { // nothing is to come
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		}
		frame, err := http2.NewFramer(c, c).ReadFrame()
		if (err == nil) != (i == 0) {
			t.Errorf("server %d sends %v, %v ahead of the preface", i, frame, err)
		}
	}
}

// Known limit: on TLS 1.2, x/net refuses HTTP/2 with cipher suites on RFC 9113
// appendix A's list, if it sees them.
func TestLimitCiphers(t *testing.T) {
	const name = "a.ciphers.test"
	ports := []int{freePort(t), freePort(t)}
	policy := `"tls_connection_policies":[{"protocol_max":"tls1.2","cipher_suites":["TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"]}],"routes":[]`
	start(t, testcaddy.TLSApp(t, `{}`, []string{name}), serverJSON(ports[0], policy), serverJSON(ports[1], `"listener_wrappers":[{"wrapper":"origin"}],`+policy))
	var got []string
	for i, port := range ports {
		config := clientTLS(name, "h2")
		config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		config.MaxVersion = tls.VersionTLS12
		c, err := tls.Dial("tcp", address(port), config)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		framer := http2.NewFramer(nil, c)
		if i == 1 { // the other one closes at once, so that a write could fail
			framer = openH2(t, c).Framer
		}
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, frame.Header().Type.String())
		c.Close()
	}
	if want := []string{"GOAWAY", "SETTINGS"}; !slices.Equal(got, want) {
		t.Errorf("first frames %v, want %v", got, want)
	}
}

// On ALPN h2 nothing but HTTP/2 is served, and on any other nothing but HTTP/1.
func TestALPNDecides(t *testing.T) {
	const name = "a.alpn.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{name}), serverJSON(port, withOrigin+`"routes":[`+hostRoutes(name)+`]`))
	for _, test := range []struct{ alpn, sent string }{
		{"h2", "GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n"},
		{"http/1.1", http2.ClientPreface + string(settings(t))},
		{"", http2.ClientPreface + string(settings(t))},
	} {
		var alpn []string
		if test.alpn != "" {
			alpn = []string{test.alpn}
		}
		c := dial(t, port, name, alpn...)
		if _, err := io.WriteString(c, test.sent); err != nil {
			t.Fatal(err)
		}
		if got := ended(c); got != `""` {
			t.Errorf("ALPN %q, %q: answered %s", test.alpn, test.sent[:14], got)
		}
	}
}
