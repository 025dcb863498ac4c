package origin

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// fakeServer is the server of a conn in tests.
type fakeServer struct {
	handshakeTimeout, headerTimeout time.Duration
	origins                         []origin

	mu    sync.Mutex
	count int // of frames sent
	log   []string
}

func (s *fakeServer) timeouts() (handshake, header time.Duration) {
	return s.handshakeTimeout, s.headerTimeout
}
func (s *fakeServer) frames(string, net.Addr) frames { return encode(s.origins) }
func (s *fakeServer) sent(f frames) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count += f.count
}

func (s *fakeServer) logf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

// fakeTLS is a TLS connection after its handshake.
type fakeTLS struct {
	net.Conn // nil
	alpn     string
	writes   [][]byte
	limit    int // bytes it takes before it fails; 0 is no limit
	reads    [][]byte
	readErr  error
	closed   bool
}

func (f *fakeTLS) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{NegotiatedProtocol: f.alpn}
}
func (f *fakeTLS) HandshakeContext(context.Context) error { return nil }
func (f *fakeTLS) SetReadDeadline(time.Time) error        { return nil }
func (f *fakeTLS) SetWriteDeadline(time.Time) error       { return nil }
func (f *fakeTLS) LocalAddr() net.Addr                    { return nil }
func (f *fakeTLS) RemoteAddr() net.Addr                   { return &net.TCPAddr{Port: 1} }
func (f *fakeTLS) Close() error                           { f.closed = true; return nil }

func (f *fakeTLS) Write(p []byte) (int, error) {
	f.writes = append(f.writes, bytes.Clone(p))
	if f.limit > 0 && len(p) > f.limit {
		return f.limit, io.ErrShortWrite
	}
	return len(p), nil
}

func (f *fakeTLS) Read(p []byte) (int, error) {
	if len(f.reads) == 0 {
		if f.readErr != nil {
			return 0, f.readErr
		}
		return 0, io.EOF
	}
	n := copy(p, f.reads[0])
	if f.reads[0] = f.reads[0][n:]; len(f.reads[0]) == 0 {
		f.reads = f.reads[1:]
	}
	return n, nil
}

func settings(t testing.TB, list ...http2.Setting) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := http2.NewFramer(&buf, nil).WriteSettings(list...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// O9 RFC 9113 3.4: directly behind the first SETTINGS frame, however that comes
// to be written, and what is written is counted as if there were no more of it.
//
// Checklist: O9.
func TestFrameFollowsSettings(t *testing.T) {
	for _, first := range [][]byte{
		settings(t),
		settings(t, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}),
	} {
		srv := &fakeServer{origins: []origin{{"a.test", 443}}}
		frame := encode(srv.origins).bytes
		rest := append(settings(t), "more that looks like anything"...)
		stream := slices.Concat(first, rest)
		want := slices.Concat(first, frame, rest)
		for i := range len(stream) + 1 {
			for j := i; j <= len(stream); j++ {
				under := &fakeTLS{alpn: "h2"}
				c := &conn{tlsConn: under, server: srv}
				for _, part := range [][]byte{stream[:i], stream[i:j], stream[j:], nil} {
					if n, err := c.Write(part); n != len(part) || err != nil {
						t.Fatalf("split at %d and %d: wrote %d, %v; want %d", i, j, n, err, len(part))
					}
				}
				if got := slices.Concat(under.writes...); !bytes.Equal(got, want) {
					t.Fatalf("split at %d and %d:\n     %x\nwant %x", i, j, got, want)
				}
				if len(under.writes) != 4 {
					t.Fatalf("split at %d and %d: %d writes, want as many as there were", i, j, len(under.writes))
				}
			}
		}
	}
}

// O7 RFC 8336 2.2: on HTTP/2 alone. A server that opens with something else than
// SETTINGS refuses the connection.
//
// Checklist: O7.
func TestOnlyHTTP2HasFrames(t *testing.T) {
	for _, test := range []struct {
		alpn    string
		written []byte
		frames  int
	}{
		{"h2", settings(t), 1},
		{"h2", []byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0}, // GOAWAY
		{"", settings(t), 0},
		{"http/1.1", settings(t), 0},
		{"http/1.0", settings(t), 0},
	} {
		srv := new(fakeServer)
		under := &fakeTLS{alpn: test.alpn}
		c := &conn{tlsConn: under, server: srv}
		for range 3 {
			if n, err := c.Write(test.written); n != len(test.written) || err != nil {
				t.Errorf("ALPN %q: wrote %d, %v", test.alpn, n, err)
			}
		}
		if srv.count != test.frames {
			t.Errorf("ALPN %q, %x: %d frames sent, want %d", test.alpn, test.written[:4], srv.count, test.frames)
		}
		if got, want := len(slices.Concat(under.writes...)), 3*len(test.written)+9*test.frames; got != want {
			t.Errorf("ALPN %q, %x: %d bytes written, want %d", test.alpn, test.written[:4], got, want)
		}
	}
}

func TestFailedWrite(t *testing.T) {
	first := settings(t, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384}) // 15 bytes
	for limit := 1; limit < 40; limit++ {
		srv := &fakeServer{origins: []origin{{"a", 443}}} // 20 bytes
		c := &conn{tlsConn: &fakeTLS{alpn: "h2", limit: limit}, server: srv}
		n, err := c.Write(append(bytes.Clone(first), "12345"...))
		want := limit
		if limit > 15 {
			want = max(15, limit-20)
		}
		if n != want || !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("when %d bytes get through: wrote %d, %v; want %d", limit, n, err, want)
		}
		if srv.count != 0 {
			t.Errorf("when %d bytes get through: counted as sent", limit)
		}
	}
}

// ALPN decides the protocol.
func TestOpening(t *testing.T) {
	const preface = http2.ClientPreface
	for _, test := range []struct {
		name, alpn, sent string
		passes           bool
	}{
		{"h2", "h2", preface + "more", true},
		{"h2, no more than that", "h2", preface, true},
		{"h2, but a request", "h2", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"h2, but nearly", "h2", preface[:23] + "x", false},
		{"h2, but POST", "h2", "POST / HTTP/1.1\r\n\r\n", false},
		{"h1", "http/1.1", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"h1, like a preface", "http/1.1", preface[:22] + "xx and so on", true},
		{"h1, short", "http/1.1", "G / HTTP/1.0\n\n", true},
		{"h1, but a preface", "http/1.1", preface + "more", false},
		{"no ALPN", "", "POST / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"no ALPN, but a preface", "", preface, false},
		{"ALPN of something else", "acme-tls/1", "", false},
		{"ALPN of something else, with a request", "acme-tls/1", "GET / HTTP/1.1\r\n\r\n", false},
	} {
		for _, chunk := range []int{1, 3, 14, 24, 100} {
			under := &fakeTLS{alpn: test.alpn}
			for part := range slices.Chunk([]byte(test.sent), chunk) {
				under.reads = append(under.reads, part)
			}
			c := &conn{tlsConn: under, server: new(fakeServer)}
			got, err := io.ReadAll(c)
			if err != nil || under.closed == test.passes || test.passes && string(got) != test.sent {
				t.Errorf("%s, %d bytes at a time: read %q, %v, closed: %t", test.name, chunk, got, err, under.closed)
			}
			if !test.passes && strings.Contains(string(got), "HTTP/1.1\r\n") {
				t.Errorf("%s, %d bytes at a time: a request got through", test.name, chunk)
			}
		}
	}
}

// pipe returns both ends of a TLS connection in a bubble: a client that is still
// to shake hands, and a conn. Writes below the server's TLS are counted.
func pipe(srv *fakeServer, alpn ...string) (client *tls.Conn, server *conn, below *countingConn) {
	a, b := net.Pipe()
	below = &countingConn{Conn: b}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: alpn}
	client = tls.Client(a, &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", NextProtos: alpn})
	return client, &conn{tlsConn: tls.Server(below, config), server: srv}, below
}

type countingConn struct {
	net.Conn
	mu     sync.Mutex
	writes int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *countingConn) reset() { c.mu.Lock(); c.writes = 0; c.mu.Unlock() }

// No extra write below TLS while SETTINGS and frame fit the first record, some
// 1150 bytes: as many as 36 origins of 28 bytes.
func TestOneWrite(t *testing.T) {
	first := make([]http2.Setting, 6) // 45 bytes, as x/net's
	for n, want := range map[int]int{0: 1, 1: 1, 36: 1, 60: 2} {
		synctest.Test(t, func(t *testing.T) {
			srv := new(fakeServer)
			for i := range n {
				srv.origins = append(srv.origins, origin{fmt.Sprintf("site-number-%03d.test", i), 443})
			}
			client, server, below := pipe(srv, "h2")
			go func() {
				_, _ = io.WriteString(client, http2.ClientPreface)
				_, _ = io.Copy(io.Discard, client)
			}()
			if _, err := io.ReadFull(server, make([]byte, len(http2.ClientPreface))); err != nil {
				t.Fatal(err)
			}
			below.reset()
			if _, err := server.Write(settings(t, first...)); err != nil {
				t.Fatal(err)
			}
			if below.writes != want {
				t.Errorf("%d origins: %d writes below TLS, want %d", n, below.writes, want)
			}
			if n == 36 {
				below.reset()
				if _, err := server.Write(make([]byte, 100)); err != nil || below.writes != 1 {
					t.Errorf("the next: %d writes, %v; want 1", below.writes, err)
				}
			}
			server.Close()
		})
	}
}

// A first write that a client does not read ends with its deadline, or with the
// connection.
func TestFirstWriteBlocks(t *testing.T) {
	for _, end := range []func(*conn){
		func(c *conn) { _ = c.SetWriteDeadline(time.Now()) },
		func(c *conn) { _ = c.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := new(fakeServer)
			client, server, _ := pipe(srv, "h2")
			go func() { _, _ = io.WriteString(client, http2.ClientPreface) }()
			if _, err := io.ReadFull(server, make([]byte, len(http2.ClientPreface))); err != nil {
				t.Fatal(err)
			}
			go func() { time.Sleep(time.Second); end(server) }()
			start := time.Now()
			if n, err := server.Write(settings(t)); n != 0 || err == nil {
				t.Errorf("wrote %d, %v", n, err)
			}
			if d := time.Since(start); d != time.Second || srv.count != 0 {
				t.Errorf("ended after %v, %d frames sent", d, srv.count)
			}
			server.tlsConn.(*tls.Conn).NetConn().Close()
		})
	}
}

// The handshake has net/http's limits, for reads and for writes, and what follows
// has its own.
func TestTimeouts(t *testing.T) {
	deadline := func(t *testing.T, name string, server *conn, want time.Duration) {
		t.Helper()
		start := time.Now()
		_, err := server.Read(make([]byte, 10))
		if took := time.Since(start); err == nil || took != want {
			t.Errorf("%s: failed after %v with %v, want after %v", name, took, err, want)
		}
		if _, err := server.Read(make([]byte, 10)); err == nil || time.Since(start) != want {
			t.Errorf("%s: reading again took until %v, %v; want no more time", name, time.Since(start), err)
		}
		server.Close()
	}
	synctest.Test(t, func(t *testing.T) {
		srv := &fakeServer{handshakeTimeout: 5 * time.Second, headerTimeout: 7 * time.Second}
		_, server, _ := pipe(srv, "h2")
		deadline(t, "a client that says nothing", server, 5*time.Second)
		if len(srv.log) != 1 || !strings.HasPrefix(srv.log[0], "http: TLS handshake error from pipe: ") {
			t.Errorf("log: %q", srv.log)
		}

		done := make(chan struct{})
		client, server, _ := pipe(srv, "h2")
		go func() { // its hello goes out, and nothing is read
			raw := client.NetConn()
			hello := tls.Client(&readless{raw, done}, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
			_ = hello.Handshake()
		}()
		deadline(t, "a client that reads nothing", server, 5*time.Second)
		close(done)

		shake := func(client *tls.Conn, sent string) {
			go func() {
				time.Sleep(4 * time.Second)
				_ = client.Handshake()
				_, _ = io.WriteString(client, sent)
				_, _ = io.Copy(io.Discard, client)
			}()
		}
		client, server, _ = pipe(srv, "http/1.1")
		shake(client, "")
		deadline(t, "HTTP/1.1 without a request", server, 4*time.Second+7*time.Second)

		client, server, _ = pipe(srv, "h2")
		shake(client, "")
		deadline(t, "HTTP/2 without a preface", server, 4*time.Second+10*time.Second)

		client, server, _ = pipe(srv, "http/1.1")
		shake(client, "GET")
		if n, err := server.Read(make([]byte, 10)); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		deadline(t, "a bit of a request", server, 7*time.Second)

		client, server, _ = pipe(new(fakeServer), "http/1.1")
		shake(client, "")
		go func() { time.Sleep(time.Hour); server.SetReadDeadline(time.Now()) }()
		deadline(t, "without limits, but with one that is set later", server, time.Hour)
	})
}

// readless never reads.
type readless struct {
	net.Conn
	done chan struct{}
}

func (r *readless) Read([]byte) (int, error) { <-r.done; return 0, io.EOF }

// The Write path costs nothing once the frame is out.
func BenchmarkWrite(b *testing.B) {
	payload := make([]byte, 1000)
	under := new(discard)
	b.Run("without", func(b *testing.B) {
		var c net.Conn = under
		for b.Loop() {
			_, _ = c.Write(payload)
		}
	})
	b.Run("with", func(b *testing.B) {
		var c net.Conn = &conn{tlsConn: under, server: new(fakeServer)}
		_, _ = c.Write(settings(b))
		for b.Loop() {
			_, _ = c.Write(payload)
		}
	})
}

type discard struct{ fakeTLS }

func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{NegotiatedProtocol: "h2"}
}
