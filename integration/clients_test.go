package integration

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	h2peer "github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// An ask is one request, with everything chosen freely that ordinary clients
// derive from the URL.
type ask struct {
	method    string // GET if empty
	authority string // :authority, or Host in HTTP/1.1
	target    string // :path, or the request target in HTTP/1.1; / if empty
	header    [][2]string
	body      string
}

// An answer is what came back; reset is the error of a stream that was reset.
type answer struct {
	status int
	header http.Header
	body   string
	reset  string
}

func (a answer) String() string {
	if a.reset != "" {
		return "reset: " + a.reset
	}
	return fmt.Sprintf("%d %q", a.status, a.body)
}

// A client holds one connection.
type client interface {
	do(ask) answer
	// resumed tells whether the TLS session was resumed.
	resumed() bool
	close()
}

// dialers open a connection with a TLS config, by protocol.
var dialers = map[string]func(t testing.TB, addr string, config *tls.Config) client{
	"h1": dialH1,
	"h2": dialH2,
	"h3": dialH3,
}

// protocols in the order tests run through them.
var protocols = []string{"h1", "h2", "h3"}

func dialTLS(t testing.TB, addr string, config *tls.Config, alpn string) *tls.Conn {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{alpn}
	conn, err := (&tls.Dialer{Config: config}).DialContext(within(t), "tcp", addr)
	if err != nil {
		t.Fatalf("connecting with SNI %q: %v", config.ServerName, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*tls.Conn)
}

// h1 writes requests by hand.
type h1 struct {
	t      testing.TB
	conn   *tls.Conn
	reader *bufio.Reader
}

func dialH1(t testing.TB, addr string, config *tls.Config) client {
	t.Helper()
	conn := dialTLS(t, addr, config, "http/1.1")
	return &h1{t, conn, bufio.NewReader(conn)}
}

func (c *h1) resumed() bool { return c.conn.ConnectionState().DidResume }
func (c *h1) close()        { c.conn.Close() }

func (c *h1) do(a ask) answer {
	c.t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\n", cmp.Or(a.method, "GET"), cmp.Or(a.target, "/"), a.authority)
	for _, field := range a.header {
		fmt.Fprintf(&text, "%s: %s\r\n", field[0], field[1])
	}
	if a.body != "" {
		fmt.Fprintf(&text, "Content-Length: %d\r\n", len(a.body))
	}
	return c.raw(text.String()+"\r\n"+a.body, cmp.Or(a.method, "GET"))
}

// raw sends a request as it is and reads one response.
func (c *h1) raw(text, method string) answer {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c.conn, text); err != nil {
		return answer{reset: err.Error()}
	}
	resp, err := http.ReadResponse(c.reader, &http.Request{Method: method})
	if err != nil {
		return answer{reset: err.Error()}
	}
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return answer{status: resp.StatusCode, header: resp.Header} // a tunnel
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{reset: err.Error()}
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

// h2 writes frames by hand.
type h2 struct {
	t      testing.TB
	conn   *tls.Conn
	peer   *h2peer.Peer
	next   uint32
	goAway bool
	// extendedConnect: the server's SETTINGS allow it.
	extendedConnect bool
	// What an ORIGIN frame (RFC 8336) told of.
	sawOrigin bool
	origins   []string
}

func dialH2(t testing.TB, addr string, config *tls.Config) client {
	t.Helper()
	conn := dialTLS(t, addr, config, "h2")
	if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Fatalf("ALPN gave %q, want h2", got)
	}
	peer, err := h2peer.Client(conn)
	if err != nil {
		t.Fatal(err)
	}
	return &h2{t: t, conn: conn, peer: peer, next: 1}
}

func (c *h2) resumed() bool { return c.conn.ConnectionState().DidResume }
func (c *h2) close()        { c.conn.Close() }

func (c *h2) do(a ask) answer {
	c.t.Helper()
	method := cmp.Or(a.method, "GET")
	fields := [][2]string{{":method", method}}
	protocol := false
	for _, field := range a.header {
		protocol = protocol || field[0] == ":protocol"
	}
	if method != http.MethodConnect || protocol {
		fields = append(fields, [2]string{":scheme", "https"}, [2]string{":path", cmp.Or(a.target, "/")})
	}
	if a.authority != "-" { // none at all
		fields = append(fields, [2]string{":authority", a.authority})
	}
	return c.send(append(fields, a.header...), a.body)
}

// send sends a header block as it is and reads the response to it.
func (c *h2) send(fields [][2]string, body string) answer {
	c.t.Helper()
	_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	stream := c.next
	c.next += 2
	tunnel := false
	for i, field := range fields {
		fields[i][0] = strings.ToLower(field[0])
		tunnel = tunnel || field[0] == ":method" && field[1] == http.MethodConnect
	}
	err := c.peer.Headers(stream, body == "" && !tunnel, fields...)
	if err == nil && body != "" {
		err = c.peer.WriteData(stream, true, []byte(body))
	}
	if err != nil {
		return answer{reset: err.Error()}
	}

	var got answer
	for {
		frame, err := c.peer.Next()
		if err != nil {
			return answer{reset: err.Error()}
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if v, ok := f.Value(http2.SettingEnableConnectProtocol); ok && v == 1 {
				c.extendedConnect = true
			}
		case *http2.UnknownFrame:
			if f.Type != 0x0c {
				continue
			}
			c.sawOrigin = true
			for p := f.Payload(); len(p) >= 2; {
				n := 2 + int(p[0])<<8 + int(p[1])
				c.origins = append(c.origins, string(p[2:n]))
				p = p[n:]
			}
		case *http2.GoAwayFrame:
			c.goAway = true
		case *http2.RSTStreamFrame:
			if f.StreamID != stream {
				continue
			}
			if got.status != 0 && f.ErrCode == http2.ErrCodeNo { // the rest of the body is not wanted
				return got
			}
			return answer{reset: f.ErrCode.String()}
		case *http2.MetaHeadersFrame:
			if f.StreamID != stream {
				continue
			}
			got.status, _ = strconv.Atoi(f.PseudoValue("status"))
			got.header = make(http.Header)
			for _, field := range f.RegularFields() {
				got.header.Add(field.Name, field.Value)
			}
			if f.StreamEnded() || tunnel && got.status == http.StatusOK {
				return got
			}
		case *http2.DataFrame:
			if f.StreamID != stream {
				continue
			}
			got.body += string(f.Data())
			if f.StreamEnded() {
				return got
			}
		}
	}
}

// h3 is quic-go's client; its connection is dialled with an SNI of its own.
type h3 struct {
	t    testing.TB
	quic *quic.Conn
	conn *http3.ClientConn
}

func dialH3(t testing.TB, addr string, config *tls.Config) client {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	remote, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	transport := &quic.Transport{Conn: udp}
	conn, err := transport.Dial(within(t), remote, config, nil)
	if err != nil {
		t.Fatalf("connecting over QUIC with SNI %q: %v", config.ServerName, err)
	}
	t.Cleanup(func() {
		conn.CloseWithError(0, "")
		transport.Close()
		udp.Close()
	})
	return &h3{t, conn, new(http3.Transport).NewClientConn(conn)}
}

func (c *h3) resumed() bool { return c.quic.ConnectionState().TLS.DidResume }
func (c *h3) close()        { c.quic.CloseWithError(0, "") }

func (c *h3) do(a ask) answer {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	target, err := url.Parse("https://placeholder" + cmp.Or(a.target, "/"))
	if err != nil {
		c.t.Fatal(err)
	}
	req := (&http.Request{Method: cmp.Or(a.method, "GET"), URL: target, Host: a.authority, Header: make(http.Header)}).WithContext(ctx)
	for _, field := range a.header {
		if field[0] == ":protocol" {
			req.Proto = field[1]
			continue
		}
		req.Header.Add(field[0], field[1])
	}
	if a.body != "" {
		req.Body = io.NopCloser(strings.NewReader(a.body))
		req.ContentLength = int64(len(a.body))
	}
	if req.Method == http.MethodConnect && req.Proto == "" {
		req.URL = &url.URL{Host: a.authority}
	}
	resp, err := c.conn.RoundTrip(req)
	if err != nil {
		return answer{reset: err.Error()}
	}
	defer resp.Body.Close()
	if req.Method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return answer{status: resp.StatusCode, header: resp.Header}
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{reset: err.Error()}
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}
