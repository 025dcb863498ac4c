package origin

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// open counts this process's goroutines and file descriptors.
func open(t testing.TB) (goroutines, files int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("counting file descriptors: ", err)
	}
	return runtime.NumGoroutine(), len(entries)
}

// Clients that misbehave leave nothing behind, and others are served meanwhile.
func TestHostile(t *testing.T) {
	const name = "a.hostile.test"
	port, impatient := freePort(t), freePort(t)
	rest := onePolicy + `"routes":[` + hostRoutes(name, "b.hostile.test") + `]`
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "b.hostile.test"}),
		wrapped(port, "", `"read_header_timeout":"5s","idle_timeout":"5s",`+rest), wrapped(impatient, "", `"read_header_timeout":"500ms",`+rest))

	connectTo := func(port int) *net.TCPConn {
		c, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Error(err)
			return nil
		}
		return c.(*net.TCPConn)
	}
	connect := func() *net.TCPConn { return connectTo(port) }
	shake := func(c net.Conn) *tls.Conn {
		secure := tls.Client(c, clientTLS(name, "h2"))
		if err := secure.Handshake(); err != nil {
			t.Error(err)
		}
		return secure
	}
	for _, test := range []struct {
		name string
		run  func()
	}{
		{"never reads", func() {
			c := connect()
			_ = c.SetReadBuffer(1)
			secure := shake(c)
			_, _ = io.WriteString(secure, http2.ClientPreface)
			framer := http2.NewFramer(secure, nil)
			_ = framer.WriteSettings()
			_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			for framer.WritePing(false, [8]byte{}) == nil { // each is to be answered
			}
			c.Close()
		}},
		{"says nothing", func() {
			c := connectTo(impatient)
			_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a client that says nothing: %v", err)
			}
			c.Close()
		}},
		{"closes during the handshake", func() {
			c := connect()
			_, _ = c.Write([]byte{22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3})
			c.Close()
		}},
		{"resets during the handshake", func() {
			c := connect()
			_, _ = c.Write([]byte{22, 3, 1, 0, 200, 1})
			_ = c.SetLinger(0)
			c.Close()
		}},
		{"closes behind the handshake", func() {
			shake(connect()).Close()
		}},
		{"garbage behind the handshake", func() {
			c := connect()
			secure := shake(c)
			_, _ = secure.Write([]byte{0, 1, 2, 3, 0xff, 0xfe})
			_, _ = io.Copy(io.Discard, secure)
			c.Close()
		}},
		{"garbage below TLS behind the handshake", func() {
			c := connect()
			shake(c)
			_, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}},
		{"a bit of the preface", func() {
			c := connect()
			_, _ = io.WriteString(shake(c), http2.ClientPreface[:20])
			c.Close()
		}},
		{"resets during the first write", func() {
			c := connect()
			secure := shake(c)
			_, _ = io.WriteString(secure, http2.ClientPreface)
			_ = c.SetLinger(0)
			c.Close()
		}},
		{"closes behind the first write", func() {
			c := connect()
			secure := shake(c)
			_, _ = io.WriteString(secure, http2.ClientPreface)
			_, _ = secure.Read(make([]byte, 1))
			c.Close()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			polite := dialH2(t, port, name)
			polite.origins()
			polite.Close()
			var goroutines, files int
			poll.Until(t, "the polite client to be gone", func() bool { // its goroutines end on their own
				g, f := open(t)
				settled := g == goroutines && f == files
				goroutines, files = g, f
				return settled
			})

			var clients sync.WaitGroup
			for range 30 {
				clients.Go(test.run)
			}
			other := dialH2(t, port, name)
			other.origins()
			other.get(1, name)
			if status := other.status(1); status != "200" {
				t.Errorf("another client is answered %s", status)
			}
			other.Close()
			clients.Wait()
			poll.Until(t, "everything to be closed", func() bool {
				g, f := open(t)
				return g <= goroutines && f <= files
			})
		})
	}
}

// Many clients at once, some of them going away at any time; for -race.
func TestLoad(t *testing.T) {
	const name = "a.load.test"
	port := freePort(t)
	start(t, testcaddy.TLSApp(t, `{}`, []string{name, "*.w.load.test"}), wrapped(port, `,"origins":["sites"]`, onePolicy+`"routes":[`+hostRoutes(name, "x.w.load.test", "y.w.load.test")+`]`))
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for j := range 20 {
				sni := []string{name, "x.w.load.test", "made-up.w.load.test"}[(i+j)%3]
				raw, err := tls.Dial("tcp", address(port), clientTLS(sni, "h2"))
				if err != nil {
					t.Error(err)
					return
				}
				_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
				framer := http2.NewFramer(raw, raw)
				_, _ = io.WriteString(raw, http2.ClientPreface)
				_ = framer.WriteSettings()
				for k := range 2 {
					frame, err := framer.ReadFrame()
					if err != nil {
						t.Error(err)
						break
					}
					if want := [...]http2.FrameType{http2.FrameSettings, frameType}[k]; frame.Header().Type != want {
						t.Errorf("frame %d is %v", k, frame)
					}
				}
				raw.Close()
			}
		})
	}
	clients.Wait()
}
