//lint:file-ignore U1000 The doubles are read by reflection alone.

package origin

import (
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// Doubles of what the layout leads through, each with one step that is not as expected.
type (
	goodServer struct{ h3server *http3.Server }
	goodConn   struct{ streamsMap *goodMap }
	goodMap    struct{ outgoingUniStreams *goodStreams }

	noServer    struct{ h2server *http3.Server }
	otherServer struct{ h3server http3.Server }
	noConn      struct{ streams *goodMap }
	flatConn    struct{ streamsMap goodMap }
	noMap       struct{ outgoingStreams *goodStreams }
	noMapConn   struct{ streamsMap *noMap }
	flatMap     struct{ outgoingUniStreams goodStreams }
	flatMapConn struct{ streamsMap *flatMap }

	goodStreams  struct{}
	bareStreams  struct{}
	otherStreams struct{}
	bareMap      struct{ outgoingUniStreams *bareStreams }
	bareConn     struct{ streamsMap *bareMap }
	otherMap     struct{ outgoingUniStreams *otherStreams }
	otherConn    struct{ streamsMap *otherMap }
)

func (*goodStreams) GetStream(quic.StreamID) (*quic.SendStream, error) { return nil, nil }
func (*otherStreams) GetStream(quic.StreamID) *quic.SendStream         { return nil }

// Every step to the control stream is checked by name and type.
//
// Checklist: O20.
func TestLayoutIsChecked(t *testing.T) {
	for _, test := range []struct {
		name         string
		server, conn reflect.Type
		want         string
	}{
		{"Caddy's and quic-go's own", reflect.TypeFor[caddyhttp.Server](), reflect.TypeFor[quic.Conn](), ""},
		{"as expected", reflect.TypeFor[goodServer](), reflect.TypeFor[goodConn](), ""},
		{"no server", reflect.TypeFor[noServer](), reflect.TypeFor[goodConn](), "has no field h3server"},
		{"another server", reflect.TypeFor[otherServer](), reflect.TypeFor[goodConn](), "h3server is a http3.Server, not a *http3.Server"},
		{"no streams", reflect.TypeFor[goodServer](), reflect.TypeFor[noConn](), "has no field streamsMap"},
		{"streams without a pointer", reflect.TypeFor[goodServer](), reflect.TypeFor[flatConn](), "outgoingUniStreams is no struct"},
		{"no outgoing streams", reflect.TypeFor[goodServer](), reflect.TypeFor[noMapConn](), "has no field outgoingUniStreams"},
		{"outgoing streams without a pointer", reflect.TypeFor[goodServer](), reflect.TypeFor[flatMapConn](), "not a pointer"},
		{"no method", reflect.TypeFor[goodServer](), reflect.TypeFor[bareConn](), "has no method GetStream"},
		{"another method", reflect.TypeFor[goodServer](), reflect.TypeFor[otherConn](), "GetStream is a func(*origin.otherStreams, protocol.StreamID) *quic.SendStream, not a func("},
		{"no struct", reflect.TypeFor[int](), reflect.TypeFor[goodConn](), "is no struct"},
	} {
		_, err := findLayout(test.server, test.conn)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error = %v, want %q", test.name, err, test.want)
		}
	}
}

// Where the layout is another one, HTTP/3 is as without the option, and that is warned
// of once.
//
// Checklist: O20.
func TestOtherLayoutIsStock(t *testing.T) {
	before := quicLayout
	quicLayout = func() (*layout, error) { return findLayout(reflect.TypeFor[noServer](), reflect.TypeFor[quic.Conn]()) }
	defer func() { quicLayout = before }()

	const name = "a.layout.test"
	port := freePort(t)
	log := start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.layout.test"}), wrapped(port, withHTTP3, onePolicy+`"routes":[`+hostRoutes(name, "b.layout.test")+`]`))
	for range 2 {
		c := dialH3(t, port, name)
		c.mustGet(name)
		if got := c.settled(1); len(got) != 1 {
			t.Errorf("frames on the control stream: %v", kinds(got))
		}
	}
	warned := 0
	for _, line := range logged(t, log, "caddy.listeners.origin") {
		if line["level"] == "warn" && strings.Contains(line["reason"].(string), "has no field h3server") {
			warned++
		}
	}
	if warned != 1 {
		t.Errorf("warned %d times", warned)
	}
	if e := authority.Active()[0].ExplainOrigins(name, false)[0]; e.HTTP3 || !strings.Contains(e.WithoutHTTP3, "has no field h3server") {
		t.Errorf("explained as %v on HTTP/3: %s", e.HTTP3, e.WithoutHTTP3)
	}
}
