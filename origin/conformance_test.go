package origin

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// wrapped is the config of a server with the wrapper, set up as options say.
func wrapped(port int, options, more string) string {
	return serverJSON(port, `"listener_wrappers":[{"wrapper":"origin"`+options+`}],"strict_sni_host":false,`+more)
}

const onePolicy = `"tls_connection_policies":[{}],`

const noFrames = "no frame"

// TestFramesOnTheWire: what a connection is told.
//
// Checklist: O1, O5, O6.
func TestFramesOnTheWire(t *testing.T) {
	tlsApp := testcaddy.TLSApp(t, `{}`, []string{"a.wire.test", "b.wire.test", "2001:db8::1"}, []string{"*.w.wire.test"})
	routes := `"routes":[` + hostRoutes("a.wire.test", "b.wire.test", "2001:db8::1", "x.w.wire.test", "y.w.wire.test") + `]`
	for _, test := range []struct {
		name    string
		options string
		sni     string
		want    string // PORT is the listener's
	}{
		{"automatic", ``, "a.wire.test", "https://[2001:db8::1]:PORT https://b.wire.test:PORT"},
		{"another server name", ``, "b.wire.test", "https://[2001:db8::1]:PORT https://a.wire.test:PORT"},
		{"in capitals", ``, "B.WIRE.test", "https://[2001:db8::1]:PORT https://a.wire.test:PORT"},
		{"under a wildcard", ``, "x.w.wire.test", noFrames},                                                                        // Checklist: O17, O19.
		{"made up", ``, "made-up.w.wire.test", noFrames},                                                                           // Checklist: O17, O19.
		{"sites under a wildcard", `,"origins":["sites"]`, "x.w.wire.test", "https://y.w.wire.test:PORT"},                          // Checklist: O4.
		{"sites, made up", `,"origins":["sites"]`, "made-up.w.wire.test", "https://x.w.wire.test:PORT https://y.w.wire.test:PORT"}, // Checklist: O4.
		{"public port", `,"public_port":443`, "a.wire.test", "https://[2001:db8::1] https://b.wire.test"},                          // Checklist: O6.
		{"none", `,"origins":["none"]`, "a.wire.test", ""},                                                                         // Checklist: O5.
		{"a limit", `,"origins":["sites"],"max_origins":1`, "a.wire.test", "https://[2001:db8::1]:PORT"},                           // Checklist: O14.
		{"a limit, so that not all can be named", `,"max_origins":1`, "a.wire.test", noFrames},                                     // Checklist: O14, O19.
		{"a list", `,"origins":["https://b.wire.test","https://b.wire.test:8443","https://a.wire.test"]`, "a.wire.test", "https://b.wire.test https://b.wire.test:8443 https://a.wire.test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			start(t, tlsApp, wrapped(port, test.options, onePolicy+routes))
			want := strings.ReplaceAll(test.want, "PORT", fmt.Sprint(port))
			h := dialH2(t, port, test.sni)
			if want == noFrames {
				h.noOrigins(strings.ToLower(test.sni))
				return
			}
			if got := strings.Join(h.origins(), " "); got != want {
				t.Errorf("told %s, want %s", got, want)
			}
			h.get(1, strings.ToLower(test.sni))
			if status := h.status(1); status != "200" {
				t.Errorf("a request behind it: %s", status)
			}
		})
	}
}

// O6 RFC 8336 2.3: the remote port is the one that the client connected to, which
// a PROXY protocol header tells.
//
// Checklist: O6.
func TestPortBehindProxyProtocol(t *testing.T) {
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.proxied.test", "b.proxied.test"}),
		serverJSON(port, `"listener_wrappers":[{"wrapper":"proxy_protocol","allow":["127.0.0.1/32"]},{"wrapper":"http_redirect"},{"wrapper":"tls"},{"wrapper":"origin"}],`+
			onePolicy+`"routes":[`+hostRoutes("a.proxied.test", "b.proxied.test")+`]`))
	for announced, want := range map[string]string{"443": "https://b.proxied.test", "8443": "https://b.proxied.test:8443"} {
		raw, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		fmt.Fprintf(raw, "PROXY TCP4 192.0.2.1 192.0.2.2 1234 %s\r\n", announced)
		c := tls.Client(raw, clientTLS("a.proxied.test", "h2"))
		if got := openH2(t, c).origins(); !slices.Equal(got, []string{want}) {
			t.Errorf("announced port %s: told %v, want %s", announced, got, want)
		}
	}
	// http_redirect still does its work
	raw, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprint(raw, "PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\nGET / HTTP/1.1\r\nHost: a.proxied.test\r\n\r\n")
	if got := ended(raw); !strings.Contains(got, "308 Permanent Redirect") || strings.Contains(got, "400") {
		t.Errorf("plain HTTP: %s", got)
	}
}

// O7 RFC 8336 2.2: not a byte of it on HTTP/1.1 over TLS, on h2c, on plain HTTP.
//
// Checklist: O7.
func TestNoFrameElsewhere(t *testing.T) {
	secure, plain := freePort(t), freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.else.test", "b.else.test"}),
		wrapped(secure, "", onePolicy+`"routes":[`+hostRoutes("a.else.test", "b.else.test")+`]`),
		serverJSON(plain, `"protocols":["h1","h2c"],"listener_wrappers":[{"wrapper":"origin"}],"routes":[`+hostRoutes("a.else.test", "b.else.test")+`]`))

	for _, alpn := range [][]string{nil, {"http/1.1"}} {
		c := dial(t, secure, "a.else.test", alpn...)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a.else.test\r\nConnection: close\r\n\r\n")
		if got := ended(c); !strings.HasPrefix(got, `"HTTP/1.1 200 OK`) || strings.Contains(got, "b.else.test") {
			t.Errorf("ALPN %v: %s", alpn, got)
		}
	}

	raw, err := net.Dial("tcp", address(plain))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	fmt.Fprint(raw, "GET / HTTP/1.1\r\nHost: a.else.test\r\nConnection: close\r\n\r\n")
	if got := ended(raw); !strings.HasPrefix(got, `"HTTP/1.1 200 OK`) {
		t.Errorf("plain HTTP: %s", got)
	}

	raw, err = net.Dial("tcp", address(plain))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	h2c := http2.NewFramer(raw, raw)
	_, _ = io.WriteString(raw, http2.ClientPreface)
	_ = h2c.WriteSettings()
	_ = h2c.WritePing(false, [8]byte{1})
	settings := 0
	for {
		frame, err := h2c.ReadFrame()
		if err != nil {
			t.Fatalf("h2c: %v", err)
		}
		if frame.Header().Type == frameType {
			t.Error("an ORIGIN frame on h2c")
		}
		if frame.Header().Type == http2.FrameSettings {
			settings++
		}
		if frame.Header().Type == http2.FramePing {
			break
		}
	}
	if settings == 0 {
		t.Error("h2c is not served, so nothing is tested")
	}
}

// O8 RFC 8336 2.2: the frame of an upstream stays where it is.
//
// Checklist: O8.
func TestUpstreamFrameIsNotForwarded(t *testing.T) {
	front, upstream := freePort(t), freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.front.test", "b.front.test"}, []string{"a.up.test", "b.up.test"}),
		wrapped(front, "", onePolicy+`"routes":[{"match":[{"host":["a.front.test","b.front.test"]}],"handle":[{"handler":"reverse_proxy",
			"upstreams":[{"dial":"`+address(upstream)+`"}],
			"headers":{"request":{"set":{"Host":["a.up.test"]}}},
			"transport":{"protocol":"http","versions":["2"],"tls":{"server_name":"a.up.test","insecure_skip_verify":true}}}]}]`),
		wrapped(upstream, "", onePolicy+`"routes":[`+hostRoutes("a.up.test", "b.up.test")+`]`))

	// the upstream does send one
	if got, want := dialH2(t, upstream, "a.up.test").origins(), fmt.Sprintf("https://b.up.test:%d", upstream); !slices.Equal(got, []string{want}) {
		t.Fatalf("the upstream says %v, want %s", got, want)
	}
	h := dialH2(t, front, "a.front.test")
	if got, want := h.origins(), fmt.Sprintf("https://b.front.test:%d", front); !slices.Equal(got, []string{want}) {
		t.Errorf("told %v, want %s", got, want)
	}
	for stream := uint32(1); stream < 20; stream += 2 {
		h.get(stream, "a.front.test")
		for frame := http2.Frame(nil); frame == nil || frame.Header().StreamID != stream || !frame.Header().Flags.Has(http2.FlagDataEndStream); {
			var err error
			if frame, err = h.ReadFrame(); err != nil {
				t.Fatal(err)
			}
			if frame.Header().Type == frameType {
				t.Fatal("a second ORIGIN frame")
			}
		}
	}
}

// O9 RFC 9113 3.4: SETTINGS, then ORIGIN, then all else, even if a request is
// there already. O10 RFC 9113 5.5: never inside of a field block.
//
// Checklist: O9, O10.
func TestFrameComesBeforeHeaders(t *testing.T) {
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.order.test", "b.order.test"}), wrapped(port, "", onePolicy+
		`"routes":[{"match":[{"host":["a.order.test","b.order.test"]}],"handle":[{"handler":"static_response","headers":{"X-Long":["`+strings.Repeat("x", 40_000)+`"]},"body":"short"}]}]`))
	for range 20 {
		c := dial(t, port, "a.order.test", "h2")
		// preface, SETTINGS and requests in one write
		var out bytes.Buffer
		out.WriteString(http2.ClientPreface)
		framer := http2.NewFramer(&out, nil)
		_ = framer.WriteSettings()
		for stream := uint32(1); stream < 10; stream += 2 {
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.order.test"}, {":path", "/"}} {
				_ = enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
			}
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		}
		if _, err := c.Write(out.Bytes()); err != nil {
			t.Fatal(err)
		}
		// the Framer fails where a field block is interrupted
		in := http2.NewFramer(nil, c)
		var types []string
		for ends := 0; ends < 5; {
			frame, err := in.ReadFrame()
			if err != nil {
				t.Fatalf("after %v: %v", types, err)
			}
			h := frame.Header()
			types = append(types, h.Type.String())
			if h.Type == http2.FrameData && h.Flags.Has(http2.FlagDataEndStream) {
				ends++
			}
		}
		if types[0] != "SETTINGS" || types[1] != frameType.String() || slices.Contains(types[2:], frameType.String()) {
			t.Fatalf("the frames are %v", types)
		}
		if !slices.Contains(types, "CONTINUATION") {
			t.Fatal("there is no CONTINUATION, so nothing is tested")
		}
	}
}

// O11 RFC 9113 4.2: what does not fit in one frame comes in several.
//
// Checklist: O11.
func TestLongFramesAreSplitOnTheWire(t *testing.T) {
	port := freePort(t)
	var names []string
	for i := range 400 {
		names = append(names, fmt.Sprintf("a-name-that-is-not-short-at-all-%03d.large.test", i))
	}
	start(t, testcaddy.TLSApp(t, `{}`, names), wrapped(port, `,"max_origins":1000,"public_port":443`, onePolicy+`"routes":[`+hostRoutes(names...)+`]`))
	h := dialH2(t, port, names[0])
	h.SetMaxReadFrameSize(16384)
	first := h.origins()
	frame, err := h.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	second := decodeFrame(t, frame)
	if len(first) == 0 || len(second) == 0 || len(first)+len(second) != 399 {
		t.Errorf("%d and %d origins, want 399 together", len(first), len(second))
	}
	h.get(1, names[0])
	if status := h.status(1); status != "200" {
		t.Errorf("a request behind them: %s", status)
	}
}

// O12 RFC 9113 5.5: who does not know the frame notices nothing. Whatever a
// client sends, the server's frames are the same but for ORIGIN.
//
// Checklist: O12.
func TestNothingElseChanges(t *testing.T) {
	const name = "a.unaffected.test"
	ports := []int{freePort(t), freePort(t)}
	rest := `"tls_connection_policies":[{}],"routes":[` + hostRoutes(name) + `]`
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.unaffected.test"}), serverJSON(ports[0], rest), serverJSON(ports[1], `"listener_wrappers":[{"wrapper":"origin"}],`+rest))
	raw := func(frameType http2.FrameType, flags http2.Flags, stream uint32, payload ...byte) func(*h2conn) {
		return func(h *h2conn) { _ = h.WriteRawFrame(frameType, flags, stream, payload) }
	}
	for _, test := range []struct {
		name string
		send func(*h2conn)
		last http2.FrameType // after which we stop to read
	}{
		{"a request", func(h *h2conn) { h.get(1, name) }, http2.FrameData},
		{"PING", func(h *h2conn) { _ = h.WritePing(false, [8]byte{1, 2}) }, http2.FramePing},
		{"PING that is too short", raw(http2.FramePing, 0, 0, 1), http2.FrameGoAway},
		{"PING on a stream", raw(http2.FramePing, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8), http2.FrameGoAway},
		{"DATA on an idle stream", raw(http2.FrameData, 0, 1, 1), http2.FrameGoAway},
		{"DATA on stream 0", raw(http2.FrameData, 0, 0, 1), http2.FrameGoAway},
		{"an even stream", func(h *h2conn) { h.get(2, name) }, http2.FrameGoAway},
		{"streams in the wrong order", func(h *h2conn) { h.get(5, name); h.get(3, name) }, http2.FrameGoAway},
		{"a field block that is none", raw(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), http2.FrameGoAway},
		{"CONTINUATION without HEADERS", raw(http2.FrameContinuation, 0, 1), http2.FrameGoAway},
		{"WINDOW_UPDATE by 0", raw(http2.FrameWindowUpdate, 0, 0, 0, 0, 0, 0), http2.FrameGoAway},
		{"WINDOW_UPDATE beyond the limit", func(h *h2conn) { _ = h.WriteWindowUpdate(0, 1<<31-1) }, http2.FrameGoAway},
		{"SETTINGS that are invalid", func(h *h2conn) {
			_ = h.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
		}, http2.FrameGoAway},
		{"SETTINGS acknowledged with a payload", raw(http2.FrameSettings, http2.FlagSettingsAck, 0, 1, 2, 3, 4, 5, 6), http2.FrameGoAway},
		{"RST_STREAM on an idle stream", func(h *h2conn) { _ = h.WriteRSTStream(1, http2.ErrCodeCancel) }, http2.FrameGoAway},
		{"PUSH_PROMISE", raw(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, 0, 0, 0, 2), http2.FrameGoAway},
		{"an ORIGIN frame", func(h *h2conn) { _ = h.WriteRawFrame(frameType, 0, 0, []byte{0, 1, 'x'}); h.get(1, name) }, http2.FrameData},
		{"a frame that is too large", raw(http2.FrameData, 0, 1, make([]byte, 1<<20+1)...), http2.FrameGoAway},
	} {
		var seen [2]string
		for i, port := range ports {
			h := dialH2(t, port, name)
			test.send(h)
			var frames []string
			for {
				frame, err := h.ReadFrame()
				if err != nil {
					frames = append(frames, "the end")
					break
				}
				// what the ACK of SETTINGS and window updates come before or
				// after is a matter of chance
				header := frame.Header()
				switch {
				case header.Type == frameType:
					if i == 0 || len(frames) != 1 {
						t.Errorf("%s: an ORIGIN frame as frame %d of server %d", test.name, len(frames), i)
					}
					continue
				case header.Type == http2.FrameSettings && header.Flags.Has(http2.FlagSettingsAck), header.Type == http2.FrameWindowUpdate:
					continue
				case test.last == http2.FrameGoAway && header.StreamID != 0: // and so is an answer in time
					continue
				}
				line := header.String()
				if away, ok := frame.(*http2.GoAwayFrame); ok {
					line += " " + away.ErrCode.String()
				}
				frames = append(frames, line)
				if header.Type == test.last {
					break
				}
			}
			seen[i] = strings.Join(frames, "\n")
		}
		if seen[0] != seen[1] || !strings.Contains(seen[1], test.last.String()) {
			t.Errorf("%s: without the wrapper\n%s\nwith it\n%s", test.name, seen[0], seen[1])
		}
	}
}

// O15 RFC 9113 9.1: nobody is told to go around a client-certificate rule.
//
// Checklist: O15.
func TestOriginsHaveTheSameClientCertificateRule(t *testing.T) {
	port := freePort(t)
	names := []string{"a.mtls.test", "b.mtls.test", "m.mtls.test", "c.mtls.test"}
	start(t, testcaddy.TLSApp(t, `{}`, names), wrapped(port, `,"public_port":443`,
		`"tls_connection_policies":[{"match":{"sni":["m.mtls.test"]},"client_authentication":{"mode":"request"}},{}],"routes":[
		{"match":[{"host":["c.mtls.test"]}],"handle":[{"handler":"misdirected"}]},
		{"match":[{"host":["a.mtls.test","b.mtls.test","m.mtls.test"]}],"handle":[{"handler":"misdirected","share":[["a.mtls.test","m.mtls.test"]],"scope":"site"}]}]`))
	for sni, want := range map[string]string{"a.mtls.test": "[https://b.mtls.test]", "b.mtls.test": "[https://a.mtls.test]", "m.mtls.test": "[]", "c.mtls.test": "[]"} {
		if got := fmt.Sprint(dialH2(t, port, sni).origins()); got != want {
			t.Errorf("SNI %s: told %s, want %s", sni, got, want)
		}
	}
}

// A reload and a replaced certificate change what the next connection is told.
func TestReload(t *testing.T) {
	port := freePort(t)
	for _, step := range []struct {
		certificate []string
		sites       []string
		want        string
	}{
		{[]string{"a.reload.test", "b.reload.test"}, []string{"a.reload.test", "b.reload.test", "c.reload.test"}, "[https://b.reload.test]"},
		{[]string{"a.reload.test", "c.reload.test"}, []string{"a.reload.test", "b.reload.test", "c.reload.test"}, "[https://c.reload.test]"},
		{[]string{"a.reload.test", "b.reload.test", "c.reload.test"}, []string{"a.reload.test", "b.reload.test"}, "[https://b.reload.test]"},
	} {
		start(t, testcaddy.TLSApp(t, `{}`, step.certificate), wrapped(port, `,"public_port":443`, onePolicy+`"routes":[`+hostRoutes(step.sites...)+`]`))
		if got := fmt.Sprint(dialH2(t, port, "a.reload.test").origins()); got != step.want {
			t.Errorf("certificate for %v, sites %v: told %s, want %s", step.certificate, step.sites, got, step.want)
		}
	}
}

// No time is lost to waiting for anything.
func TestFirstFrameAtOnce(t *testing.T) {
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.fast.test", "b.fast.test"}), wrapped(port, "", onePolicy+`"routes":[`+hostRoutes("a.fast.test", "b.fast.test")+`]`))
	for try := 1; ; try++ { // a busy machine may be late at times
		start := time.Now()
		if got := dialH2(t, port, "a.fast.test").origins(); len(got) != 1 {
			t.Errorf("told %v", got)
		}
		took := time.Since(start)
		if took < time.Second {
			break
		}
		if try == 5 {
			t.Errorf("it took %v", took)
			break
		}
	}
}
