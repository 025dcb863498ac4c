package origin

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

const withHTTP3 = `,"public_port":443,"http3":true`

// RFC 9412: with http3, the control stream has SETTINGS and, with the first request,
// one ORIGIN frame with what HTTP/2 connections are told.
//
// Checklist: O20.
func TestFrameOnHTTP3(t *testing.T) {
	names := []string{"a.h3.test", "b.h3.test", "c.h3.test"}
	guarded := `,{"match":[{"host":["c.h3.test"]}],"handle":[{"handler":"misdirected"}]}`
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, names), wrapped(port, withHTTP3, onePolicy+`"routes":[`+hostRoutes(names[:2]...)+guarded+`]`))
	for _, sni := range names {
		c := dialH3(t, port, sni)
		if early := c.settled(1); len(early) != 1 || early[0].kind != settingsHTTP3 {
			t.Fatalf("SNI %s: before any request: %v", sni, kinds(early))
		}
		for range 3 {
			c.get(sni)
		}
		want := dialH2(t, port, sni).origins()
		if got := c.origins(); !slices.Equal(got, want) {
			t.Errorf("SNI %s: told %v on HTTP/3, and %v on HTTP/2", sni, got, want)
		}
	}
	for _, e := range authority.Active()[0].ExplainOrigins(names[0], false) {
		if !e.HTTP3 || e.WithoutHTTP3 != "" {
			t.Errorf("explained as %v on HTTP/3: %s", e.HTTP3, e.WithoutHTTP3)
		}
	}
}

// RFC 9412: without the option HTTP/3 has no frame, also not behind requests.
//
// Checklist: O16.
func TestNoFrameOnHTTP3(t *testing.T) {
	const name = "a.noh3.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.noh3.test"}), wrapped(port, "", onePolicy+`"routes":[`+hostRoutes(name, "b.noh3.test")+`]`))
	if len(dialH2(t, port, name).origins()) != 1 {
		t.Fatal("nothing to advertise, so nothing is tested")
	}
	c := dialH3(t, port, name)
	for range 3 {
		c.mustGet(name)
	}
	if got := c.settled(1); len(got) != 1 || got[0].kind != settingsHTTP3 {
		t.Errorf("frames on the control stream: %v", kinds(got))
	}
	for _, e := range authority.Active()[0].ExplainOrigins(name, false) {
		if e.HTTP3 || e.WithoutHTTP3 != http3Off {
			t.Errorf("explained as %v on HTTP/3: %s", e.HTTP3, e.WithoutHTTP3)
		}
	}
}

// Where HTTP/2 connections get no frame, those of HTTP/3 get none either.
//
// Checklist: O19.
func TestNoFrameOnHTTP3WhereItOnlyTakesAway(t *testing.T) {
	const name = "a.away.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{"*.away.test"}), wrapped(port, withHTTP3, onePolicy+`"routes":[`+hostRoutes(name, "b.away.test")+`]`))
	dialH2(t, port, name).noOrigins(name)
	c := dialH3(t, port, name)
	c.mustGet(name)
	if got := c.settled(1); len(got) != 1 {
		t.Errorf("frames on the control stream: %v", kinds(got))
	}
}

// Chromium reads 20 origins: those of the same registrable domain come first.
//
// Checklist: O14.
func TestOriginsOnHTTP3(t *testing.T) {
	list := func(n int, format string) (list []origin) {
		for i := range n {
			list = append(list, origin{fmt.Sprintf(format, i), httpsPort})
		}
		return list
	}
	for _, test := range []struct {
		name, sni string
		in, want  []origin
	}{
		{"few stay in their order", "a.one.test", slices.Concat(list(2, "x%d.two.test"), list(2, "x%d.one.test")), slices.Concat(list(2, "x%d.two.test"), list(2, "x%d.one.test"))},
		{"the same domain first", "a.one.test", slices.Concat(list(19, "x%02d.two.test"), list(3, "x%d.one.test")), slices.Concat(list(3, "x%d.one.test"), list(17, "x%02d.two.test"))},
		{"no more than 20", "a.one.test", list(25, "x%02d.one.test"), list(20, "x%02d.one.test")},
		{"a public suffix is no common domain", "a.co.uk", slices.Concat(list(20, "x%02d.co.uk"), list(1, "x%d.a.co.uk")), slices.Concat(list(1, "x%d.a.co.uk"), list(19, "x%02d.co.uk"))},
		{"an address has no domain", "192.0.2.1", list(25, "x%02d.one.test"), list(20, "x%02d.one.test")},
		{"none", "a.one.test", nil, nil},
	} {
		if got := http3Origins(test.sni, test.in); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// All that http3.Server has is what Caddy gives it, but for what stands in for the
// handler.
func TestHTTP3ServerAsStock(t *testing.T) {
	ports := []int{freePort(t), freePort(t)}
	more := `"max_header_bytes":12345,"idle_timeout":"123s",` + onePolicy + `"routes":[{}]`
	start(t, testcaddy.TLSApp(t, `{}`, []string{"a.fields.test"}), serverJSON(ports[0], more), wrapped(ports[1], withHTTP3, more))
	layout, err := quicLayout()
	if err != nil {
		t.Fatal(err)
	}
	app, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		t.Fatal(err)
	}
	servers := app.(*caddyhttp.App).Servers
	stock, ours := reflect.ValueOf(*layout.server(servers["srv0"])).Elem(), reflect.ValueOf(*layout.server(servers["srv1"])).Elem()
	for i := range stock.NumField() {
		field := stock.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		a, b := stock.Field(i), ours.Field(i)
		switch field.Name {
		case "Handler":
			if a.Interface() != any(servers["srv0"]) || b.Interface().(*http3Sender).next != any(servers["srv1"]) {
				t.Errorf("Handler is %T, and stock's %T", b.Interface(), a.Interface())
			}
		case "ConnContext":
			if !a.IsNil() {
				t.Error("Caddy has a ConnContext of its own, which is lost")
			}
		case "TLSConfig": // the function in it is another one
			x, y := a.Interface().(*tls.Config).Clone(), b.Interface().(*tls.Config).Clone()
			if (x.GetConfigForClient == nil) != (y.GetConfigForClient == nil) {
				t.Error("TLSConfig selects no policies")
			}
			x.GetConfigForClient, y.GetConfigForClient = nil, nil
			if fmt.Sprintf("%+v", x) != fmt.Sprintf("%+v", y) {
				t.Errorf("TLSConfig is %+v, and stock's %+v", y, x)
			}
		default:
			if !reflect.DeepEqual(a.Interface(), b.Interface()) {
				t.Errorf("%s is %v, and stock's %v", field.Name, b, a)
			}
		}
	}
}

// Many connections, each with several first requests at once: SETTINGS first, and one
// frame. For -race.
//
// Checklist: O20.
func TestManyOnHTTP3(t *testing.T) {
	const name = "a.manyh3.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.manyh3.test"}), wrapped(port, withHTTP3, onePolicy+`"routes":[`+hostRoutes(name, "b.manyh3.test")+`]`))
	var clients sync.WaitGroup
	slots := make(chan struct{}, 20)
	for range 200 {
		clients.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			conn, err := quic.DialAddr(t.Context(), address(port), clientTLS(name, http3.NextProtoH3), nil)
			if err != nil {
				t.Error(err)
				return
			}
			c := openH3(t, conn)
			var requests sync.WaitGroup
			for range 5 {
				requests.Go(func() { c.mustGet(name) })
			}
			requests.Wait()
			if got := c.settled(2); len(got) != 2 || got[0].kind != settingsHTTP3 || got[1].kind != uint64(frameType) {
				t.Errorf("frames on the control stream: %v", kinds(got))
			}
			_ = conn.CloseWithError(0, "")
		})
	}
	clients.Wait()
}

// A reload ends connections with GOAWAY, and the next ones are told what is true then.
func TestReloadOnHTTP3(t *testing.T) {
	names := []string{"a.reloadh3.test", "b.reloadh3.test", "c.reloadh3.test"}
	tlsApp := testcaddy.TLSApp(t, `{}`, names)
	port := freePort(t)
	server := func(names ...string) string {
		return wrapped(port, withHTTP3, onePolicy+`"routes":[`+hostRoutes(names...)+`,{"match":[{"host":["c.reloadh3.test"]}],"handle":[{"handler":"misdirected"}]}]`)
	}
	start(t, tlsApp, server(names[:2]...))
	before := dialH3(t, port, names[0])
	before.mustGet(names[0])
	if got := fmt.Sprint(before.origins()); got != "[https://b.reloadh3.test]" {
		t.Errorf("before: told %s", got)
	}
	start(t, tlsApp, server(names[:1]...))
	if got := before.settled(3); got[2].kind != goAwayHTTP3 || len(got) != 3 {
		t.Errorf("frames on the control stream: %v, want GOAWAY behind the ORIGIN frame", kinds(got))
	}
	after := dialH3(t, port, names[0])
	after.mustGet(names[0])
	if got := fmt.Sprint(after.origins()); got != "[]" {
		t.Errorf("after: told %s", got)
	}
}

// A request of 0-RTT is the first of its connection, and so brings the frame.
func TestFrameIn0RTT(t *testing.T) {
	if race.Enabled {
		t.Skip("quic-go's client has a data race of its own with early data")
	}
	const name = "a.early.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.early.test"}), wrapped(port, withHTTP3, onePolicy+`"routes":[`+hostRoutes(name, "b.early.test")+`]`))
	config := clientTLS(name, http3.NextProtoH3)
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	used := false
	for range 10 {
		conn, err := quic.DialAddrEarly(t.Context(), address(port), config, &quic.Config{TokenStore: quic.NewLRUTokenStore(1, 1)})
		if err != nil {
			t.Fatal(err)
		}
		c := openH3(t, conn)
		c.mustGet(name)
		if got := c.origins(); !slices.Equal(got, []string{"https://b.early.test"}) {
			t.Errorf("told %v", got)
		}
		used = used || conn.ConnectionState().Used0RTT
		_ = conn.CloseWithError(0, "")
	}
	if !used {
		t.Error("no connection used 0-RTT, so nothing is tested")
	}
}

// A client that gives no room for the frame is served as without it.
func TestClientsWithoutCreditOnHTTP3(t *testing.T) {
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("%s-%02d.credit.test", strings.Repeat("long", 15), i))
	}
	ports := []int{freePort(t), freePort(t)}
	routes := onePolicy + `"routes":[` + hostRoutes(names...) + `]`
	start(t, testcaddy.TLSApp(t, `{}`, names), serverJSON(ports[0], routes), wrapped(ports[1], withHTTP3, routes))
	for _, test := range []struct {
		name     string
		config   *quic.Config
		patience time.Duration
		want     string
	}{
		{"no bytes on the control stream", &quic.Config{InitialStreamReceiveWindow: 512, MaxStreamReceiveWindow: 512}, 20 * time.Second, "true <nil>; true <nil>; "},
		{"no stream, so that quic-go serves nothing", &quic.Config{MaxIncomingUniStreams: -1}, 300 * time.Millisecond, "false deadline exceeded; false deadline exceeded; "},
	} {
		var outcomes []string
		for _, port := range ports {
			conn, err := quic.DialAddr(t.Context(), address(port), clientTLS(names[0], http3.NextProtoH3), test.config)
			if err != nil {
				t.Fatal(err)
			}
			// Nobody reads the control stream, so that no room is given for more.
			c, outcome := &h3client{Conn: conn, t: t, patience: test.patience}, ""
			for range 2 {
				ok, err := c.get(names[0])
				outcome += fmt.Sprint(ok, " ", err, "; ")
			}
			outcomes = append(outcomes, outcome)
			_ = conn.CloseWithError(0, "")
		}
		if outcomes[0] != test.want || outcomes[1] != test.want {
			t.Errorf("%s: without the frame\n%s\nwith it\n%s\nwant\n%s", test.name, outcomes[0], outcomes[1], test.want)
		}
	}
}

// Every origin in a frame is answered on that connection, and never with 421; of HTTP/2
// and of HTTP/3, and the two are told the same.
//
// Checklist: M23, O20.
func TestAdvertisedIsAnsweredOnTheConnection(t *testing.T) {
	names := []string{"a.kept.test", "b.kept.test", "c.kept.test", "x.w.kept.test", "y.w.kept.test", "m.kept.test"}
	tlsApp := testcaddy.TLSApp(t, `{}`, []string{"a.kept.test", "b.kept.test", "c.kept.test", "m.kept.test"}, []string{"*.w.kept.test"})
	told := 0
	for _, scope := range []string{"sni", "site", "certificate"} {
		for _, mode := range []string{"auto", "sites"} {
			port := freePort(t)
			gate := `{"handler":"misdirected","scope":"` + scope + `"},{"handler":"static_response"}`
			start(t, tlsApp, wrapped(port, withHTTP3+`,"origins":["`+mode+`"]`,
				`"tls_connection_policies":[{"match":{"sni":["m.kept.test"]},"client_authentication":{"mode":"request"}},{}],"routes":[
				{"match":[{"host":["a.kept.test","b.kept.test","x.w.kept.test"]}],"terminal":true,"handle":[`+gate+`]},
				{"match":[{"host":["y.w.kept.test","m.kept.test"]}],"terminal":true,"handle":[`+gate+`]},`+hostRoutes("c.kept.test")+`]`))
			for _, sni := range names {
				c := dialH3(t, port, sni)
				c.mustGet(sni)
				frames := c.settled(1)
				if len(frames) < 2 {
					dialH2(t, port, sni).noOrigins(sni)
					continue
				}
				origins := entries(t, frames[1].payload)
				if got := dialH2(t, port, sni).origins(); !slices.Equal(got, origins) {
					t.Errorf("SNI %s: told %v on HTTP/2, and %v on HTTP/3", sni, got, origins)
				}
				for _, o := range origins {
					told++
					host := strings.TrimPrefix(o, "https://")
					c.mustGet(host)
					h := dialH2(t, port, sni)
					h.get(1, host)
					if status := h.status(1); status != "200" {
						t.Errorf("SNI %s: %s is advertised on HTTP/2, and answered %s", sni, host, status)
					}
				}
			}
		}
	}
	if told < 10 {
		t.Errorf("%d origins were told, want more", told)
	}
}

// What keeps the frames from HTTP/3 is warned of once, and explained.
func TestHTTP3IsNotToBeHad(t *testing.T) {
	for _, test := range []struct{ name, listen, want string }{
		{"no HTTP/3", `"listen":["127.0.0.1:PORT"],"protocols":["h1","h2"]`, http3Nowhere},
		{"HTTP/3 alone comes first", `"listen":["127.0.0.1:0","127.0.0.1:PORT"],"listen_protocols":[["h3"],["h1","h2"]]`, http3Early},
		{"HTTP/3 alone comes second", `"listen":["127.0.0.1:PORT","127.0.0.1:0"],"listen_protocols":[["h1","h2"],["h3"]]`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			log := start(t, testcaddy.TLSApp(t, `{}`, []string{"a.nowhere.test", "b.nowhere.test"}), `{`+strings.ReplaceAll(test.listen, "PORT", fmt.Sprint(port))+`,"automatic_https":{"disable":true},
				"listener_wrappers":[{"wrapper":"origin"`+withHTTP3+`}],`+onePolicy+`"routes":[`+hostRoutes("a.nowhere.test", "b.nowhere.test")+`]}`)
			warned := []string{}
			for _, line := range logged(t, log, "caddy.listeners.origin") {
				if line["level"] == "warn" {
					warned = append(warned, line["reason"].(string))
				}
			}
			if want := []string{test.want}; test.want != "" && !slices.Equal(warned, want) || test.want == "" && len(warned) != 0 {
				t.Errorf("warned of %q, want %q", warned, test.want)
			}
			for _, e := range authority.Active()[0].ExplainOrigins("a.nowhere.test", false) {
				if e.WithoutHTTP3 != test.want || e.HTTP3 != (test.want == "") {
					t.Errorf("explained as %v on HTTP/3: %q", e.HTTP3, e.WithoutHTTP3)
				}
			}
			if got := dialH2(t, port, "a.nowhere.test").origins(); len(got) != 1 {
				t.Errorf("told %v on HTTP/2", got)
			}
		})
	}
}
