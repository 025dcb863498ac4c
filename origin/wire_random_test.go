package origin

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// It connects to random servers, by HTTP/2 and HTTP/3, and compares the frame that comes
// with what is explained of it. Every origin that is told is answered on the connection.
// Some servers have default_sni or fallback_sni, error routes, named routes, or other
// listener wrappers in front.
//
// Checklist: O4, O13.
func TestFramesOfRandomServersOnTheWire(t *testing.T) {
	names := []string{"a.p5.test", "b.p5.test", "c.p5.test", "x.w.p5.test", "y.w.p5.test", "n.p5.test"}
	var listed []string
	for _, name := range names {
		listed = append(listed, "https://"+name)
	}
	rnd := testcaddy.NewRandom(5, names, []string{"*.p5.test", "*.w.p5.test", "*.*.p5.test", "*.*"})
	certificates := testcaddy.TLSApp(t, `{}`, []string{"a.p5.test", "b.p5.test", "c.p5.test", "x.w.p5.test", "n.p5.test"}, []string{"*.w.p5.test", "*.p5.test"})
	shown, err := testcert.SelfSigned("client")
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	rounds := needs.InLong(40, 12)
	for range rounds {
		inner := rnd.Pick("", `{"handler":"invoke","name":"n"},`) + `{"handler":"static_response","body":"ok"}`
		var routes []string
		for range 1 + rnd.IntN(4) {
			handlers := rnd.Guard(`,"error_routes":true`, `,"missing_sni":"reject"`, `,"report_only":true`) + inner
			routes = append(routes, `{"match":[{"host":`+rnd.Some(rnd.Patterns, 3)+`}],"terminal":true,"handle":[`+rnd.Pick(handlers, rnd.Blocks(handlers, rnd.Guard()+inner))+`]}`)
		}
		routes = append(routes, `{"handle":[`+rnd.Guard()+inner+`]}`)
		config := `"listener_wrappers":[` + rnd.Pick("", `{"wrapper":"http_redirect"},{"wrapper":"tls"},`, `{"wrapper":"proxy_protocol"},{"wrapper":"tls"},`) +
			`{"wrapper":"origin"` + rnd.Pick("", `,"origins":["sites"]`, `,"origins":["sites"]`, `,"origins":`+rnd.Some(listed, 4)) + withHTTP3 + `}],"strict_sni_host":false,` +
			rnd.Policies(`,"default_sni":"a.p5.test"`, `,"fallback_sni":"c.p5.test"`, `,"drop":true`) + `,
			"routes":[` + strings.Join(routes, ",") + `],"named_routes":{"n":{"match":[{"host":` + rnd.Some(rnd.Patterns, 3) + `}],"handle":[` + rnd.Guard() + `{"handler":"headers"}]}},
			"errors":{"routes":[{"handle":[{"handler":"static_response","status_code":599}]}]}`
		port := freePort(t)
		start(t, certificates, serverJSON(port, config))

		for _, sni := range append(names, "") {
			explained := authority.Active()[0].ExplainOrigins(sni, false)[0]
			for protocol, connect := range map[string]func(*testing.T, int, string, tls.Certificate) (greeted, error){"h2": overH2, "h3": overH3} {
				c, err := connect(t, port, sni, shown)
				if err != nil {
					counts["no connection"]++
					continue
				}
				sent := explained.Frame
				if protocol == "h3" {
					sent = explained.HTTP3
				}
				if c.frame != sent || !slices.Equal(c.origins, explained.Origins) {
					t.Fatalf("%s, SNI %q: a frame is sent: %v, with %q; explained as %+v, in %s", protocol, sni, c.frame, c.origins, explained, config)
				}
				for _, o := range c.origins {
					counts[protocol+" told"]++
					if !c.answers(strings.TrimPrefix(o, "https://")) {
						t.Fatalf("%s, SNI %q: %s is told, and refused, in %s", protocol, sni, o, config)
					}
				}
			}
		}
	}
	for _, what := range []string{"h2 told", "h3 told"} {
		if counts[what] < rounds/2 {
			t.Errorf("%s: %d origins, want more", what, counts[what])
		}
	}
	t.Log(counts)
}

// A greeted client is one end of a connection, and what it was told at its start.
type greeted struct {
	frame   bool
	origins []string
	answers func(host string) bool // with 200
}

// somebody is whom a client without SNI asks for.
func somebody(sni string) string {
	if sni == "" {
		return "somebody.test"
	}
	return sni
}

func overH2(t *testing.T, port int, sni string, shown tls.Certificate) (c greeted, err error) {
	config := clientTLS(sni, "h2")
	config.Certificates = []tls.Certificate{shown}
	conn, err := tls.Dial("tcp", address(port), config)
	if err != nil {
		return c, err
	}
	t.Cleanup(func() { conn.Close() })
	h := openH2(t, conn)
	h.get(1, somebody(sni))
	for {
		frame, err := h.ReadFrame()
		if err != nil {
			return c, err
		}
		switch frame.Header().Type {
		case frameType:
			c.frame, c.origins = true, append(c.origins, decodeFrame(t, frame)...)
		case http2.FrameHeaders:
			stream := uint32(1)
			c.answers = func(host string) bool {
				stream += 2
				h.get(stream, host)
				return h.status(stream) == "200"
			}
			return c, nil
		}
	}
}

func overH3(t *testing.T, port int, sni string, shown tls.Certificate) (c greeted, err error) {
	config := clientTLS(sni, http3.NextProtoH3)
	config.Certificates = []tls.Certificate{shown}
	conn, err := quic.DialAddr(t.Context(), address(port), config, nil)
	if err != nil {
		return c, err
	}
	h := openH3(t, conn)
	if _, err := h.get(somebody(sni)); err != nil {
		return c, err
	}
	if frames := h.settled(1); len(frames) > 1 {
		c.frame, c.origins = true, entries(t, frames[1].payload)
	}
	c.answers = func(host string) bool { ok, err := h.get(host); return ok && err == nil }
	return c, nil
}
