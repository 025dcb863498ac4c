package command

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
	_ "github.com/caddy-connreuse/connreuse/upstreampool" // what the command advises
)

// script is a server that reads one HTTP/1 request and then does as its steps
// say: writes strings, and waits.
func script(steps ...any) func(net.Conn) {
	return func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil || req.Method != "GET" || req.Header.Get("Connection") != "keep-alive" {
			fmt.Fprintf(c, "HTTP/1.1 500 %v, %v\r\n\r\n", req, err)
			return
		}
		for _, step := range steps {
			switch step := step.(type) {
			case time.Duration:
				if gone(c, step) {
					return
				}
			case string:
				_, _ = io.WriteString(c, step)
			}
		}
	}
}

// serveTLS puts a server behind TLS, and ends it with a close_notify.
func serveTLS(config *tls.Config, serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		tc := tls.Server(c, config)
		defer tc.Close()
		serve(tc)
	}
}

// serveHTTP is net/http's server.
func serveHTTP(srv *http.Server) func(net.Conn) {
	return func(c net.Conn) {
		srv.ErrorLog = log.New(io.Discard, "", 0)
		ended := make(chan struct{})
		srv.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(ended)
			}
		}
		l := make(listener, 1)
		l <- c
		done := make(chan struct{})
		go func() {
			if srv.TLSConfig != nil {
				_ = srv.ServeTLS(l, "", "")
			} else {
				_ = srv.Serve(l)
			}
			close(done)
		}()
		<-ended
		close(l)
		_ = srv.Close()
		<-done
	}
}

// serveFrames is an HTTP/2 server that handle takes over after the SETTINGS of
// both sides and the request on stream 1.
func serveFrames(handle func(c net.Conn, f *http2.Framer)) func(net.Conn) {
	return func(c net.Conn) {
		p, err := h2.Server(c, c, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		if err != nil {
			return
		}
		for range 2 { // SETTINGS and HEADERS
			if _, err := p.ReadFrame(); err != nil {
				return
			}
		}
		if frame, err := p.ReadFrame(); err == nil && frame.(*http2.SettingsFrame).IsAck() {
			handle(c, p.Framer)
		}
	}
}

// respond writes a response to stream 1.
func respond(f *http2.Framer, end bool) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

// TestKeepAlive runs the command against servers of all manners; testdata has
// what it prints.
func TestKeepAlive(t *testing.T) {
	const (
		ok    = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"
		ms    = time.Millisecond
		s     = time.Second
		never = 24 * time.Hour
	)
	// one server at 10.0.0.1, over TCP or TLS
	at := func(port string, serve func(net.Conn)) func(*authority) network {
		return func(*authority) network { return network{"10.0.0.1:" + port: serve} }
	}
	plain := func(steps ...any) func(*authority) network { return at("80", script(steps...)) }
	secure := func(serve func(net.Conn)) func(*authority) network {
		return func(ca *authority) network {
			return network{"10.0.0.1:443": serveTLS(&tls.Config{Certificates: []tls.Certificate{ca.issue("up.test")}}, serve)}
		}
	}
	frames := func(handle func(c net.Conn, f *http2.Framer)) func(*authority) network {
		return at("80", serveFrames(handle))
	}
	badGateway := func(c net.Conn) {
		go io.Copy(io.Discard, c)
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		gone(c, s)
	}
	maxWait := func(d time.Duration) func(*options) { return func(o *options) { o.maxWait = d } }

	for _, test := range []scene{
		{name: "announced", network: plain(ok+"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nok\n", 6*s)},
		{name: "announced with max", network: plain(ok+"Connection: Keep-Alive\r\nKeep-Alive: timeout=5, max=100\r\n\r\nok\n", 5002*ms)},
		{name: "announced later than real", network: plain(ok+"Connection: keep-alive\r\nKeep-Alive: timeout=10\r\n\r\nok\n", 5*s)},
		{name: "announced without Connection", network: plain(ok+"Keep-Alive: timeout=3\r\n\r\nok\n", 5*s)},
		{name: "announced 0", network: plain(ok+"Connection: keep-alive\r\nKeep-Alive: timeout=0\r\n\r\nok\n", 5*s)},
		{name: "nothing announced", network: plain(ok+"\r\nok\n", 75*s)},
		{name: "odd seconds", network: plain(ok+"\r\nok\n", 2180*ms)},
		{name: "too short", network: plain(ok+"\r\nok\n", 150*ms)},
		{name: "longer than the defaults", network: plain(ok+"\r\nok\n", 605*s), with: maxWait(1000 * s)},
		{name: "never closes", network: plain(ok+"\r\nok\n", never)},
		{name: "never closes but announces", network: plain(ok+"Connection: keep-alive\r\nKeep-Alive: timeout=20\r\n\r\nok\n", never)},
		{name: "max-wait too short", network: plain(ok+"\r\nok\n", 75*s), with: maxWait(20 * s)},
		{name: "far away", network: plain(ok+"\r\nok\n", 5*s), with: func(o *options) {
			near := o.dial
			o.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				time.Sleep(300 * ms) // of the bubble's clock: the way there and back
				return near(ctx, network, address)
			}
		}},
		{name: "informational and slow body", network: plain(
			"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno\n\r\n", s, "0\r\n\r\n", 4*s)},
		{name: "Connection close", network: plain(ok + "Connection: close\r\n\r\nok\n")},
		{name: "HTTP 1.0", network: plain("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n")},
		{name: "HTTP 1.0 kept alive", network: plain("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nok\n", 15*s)},
		{name: "body until the close", network: plain("HTTP/1.1 200 OK\r\n\r\nok\n", s)},
		{name: "surplus at once", network: plain(ok+"\r\nok\nHTTP/1.1 200 OK\r\n\x1b[2J", 5*s)},
		{name: "surplus before the close", network: plain(ok+"\r\nok\n", 10*s, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")},
		{name: "surplus and no close", network: plain(ok+"\r\nok\n", 10*s, "hello", never)},
		{name: "no HTTP", network: at("80", func(c net.Conn) {
			go io.Copy(io.Discard, c)
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
			gone(c, s)
		})},
		{name: "no answer", network: plain()},
		{name: "half an answer", network: plain(ok+"\r\no", s)},
		{name: "silence", network: plain(never)},
		{name: "endless header", network: plain("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 300<<10))},
		{name: "refused", network: func(*authority) network { return nil }},
		{name: "connecting takes too long", network: plain(), with: func(o *options) {
			o.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
			}
		}},
		{name: "several addresses", urls: "http://up.test", network: plain(ok+"\r\nok\n", 5*s),
			with: func(o *options) { o.resolve["up.test:80"] = []string{"10.0.0.9", "10.0.0.1"} }},
		{name: "Unix socket", urls: "unix//run/app.sock", network: func(*authority) network {
			return network{"/run/app.sock": script(ok+"\r\nok\n", 5*s)}
		}},
		{name: "upstream address", urls: "10.0.0.1:3000", network: at("3000", script(ok+"\r\nok\n", 5*s))},

		{name: "TLS close_notify", urls: "https://up.test", network: secure(script(ok+"\r\nok\n", 5*s))},
		{name: "TLS bare FIN", urls: "https://up.test", network: func(ca *authority) network {
			config := &tls.Config{Certificates: []tls.Certificate{ca.issue("up.test")}}
			return network{"10.0.0.1:443": func(c net.Conn) { script(ok+"\r\nok\n", 5*s)(tls.Server(c, config)) }}
		}},
		{name: "TLS untrusted", urls: "https://up.test", network: secure(script()),
			with: func(o *options) { o.roots = x509.NewCertPool() }},
		{name: "TLS another name", urls: "https://other.test", network: secure(script())},
		{name: "TLS insecure", urls: "https://other.test", network: secure(script(ok+"\r\nok\n", 5*s)),
			with: func(o *options) { o.roots, o.insecure = nil, true }},
		{name: "TLS client certificate", urls: "https://up.test", network: func(ca *authority) network {
			config := &tls.Config{Certificates: []tls.Certificate{ca.issue("up.test")}, ClientAuth: tls.RequireAnyClientCert}
			return network{"10.0.0.1:443": serveTLS(config, script())}
		}},
		{name: "no TLS", urls: "https://up.test", network: at("443", badGateway)},

		{name: "h2", urls: "https://up.test", network: func(ca *authority) network {
			return network{"10.0.0.1:443": serveHTTP(&http.Server{
				IdleTimeout: 30 * s, TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.issue("up.test")}},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello") }),
			})}
		}},
		{name: "h2c with a large body", urls: "h2c://10.0.0.1", network: func(*authority) network {
			srv := &http.Server{IdleTimeout: 30 * s, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write(make([]byte, 1<<20)) // more than a flow-control window
			})}
			srv.Protocols.SetUnencryptedHTTP2(true)
			return network{"10.0.0.1:80": serveHTTP(srv)}
		}},
		{name: "h2 PING and GOAWAY without close", urls: "h2c://10.0.0.1", network: frames(func(c net.Conn, f *http2.Framer) {
			respond(f, true)
			for range 3 {
				time.Sleep(s)
				_ = f.WritePing(false, [8]byte{1})
				if frame, err := f.ReadFrame(); err != nil || !frame.(*http2.PingFrame).IsAck() {
					return
				}
			}
			time.Sleep(s)
			_ = f.WriteGoAway(1, http2.ErrCodeNo, nil)
			gone(c, never)
		})},
		{name: "h2 FIN without GOAWAY", urls: "h2c://10.0.0.1", network: frames(func(c net.Conn, f *http2.Framer) {
			respond(f, true)
			gone(c, 7*s)
		})},
		{name: "h2 GOAWAY with the answer", urls: "h2c://10.0.0.1", network: frames(func(c net.Conn, f *http2.Framer) {
			respond(f, false)
			_ = f.WriteGoAway(1, http2.ErrCodeNo, nil)
			_ = f.WriteData(1, true, nil)
		})},
		{name: "h2 refused", urls: "h2c://10.0.0.1", network: frames(func(c net.Conn, f *http2.Framer) {
			_ = f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
			gone(c, s)
		})},
		{name: "h2 reset", urls: "h2c://10.0.0.1", network: frames(func(c net.Conn, f *http2.Framer) {
			_ = f.WriteRSTStream(1, http2.ErrCodeInternal)
			gone(c, s)
		})},
		{name: "no h2", urls: "h2c://10.0.0.1", network: at("80", badGateway)},

		{name: "several", urls: "http://10.0.0.1/health?x=1 http://10.0.0.2 http://10.0.0.4:81", network: func(*authority) network {
			return network{"10.0.0.1:80": script(ok+"\r\nok\n", 65*s), "10.0.0.2:80": script(ok+"\r\nok\n", 5*s)}
		}},
		{name: "interrupted", urls: "http://10.0.0.1 http://10.0.0.2 http://10.0.0.3", network: func(*authority) network {
			return network{
				"10.0.0.1:80": script(ok+"\r\nok\n", never),
				"10.0.0.2:80": script(ok+"\r\nok\n", 5*s),
				"10.0.0.3:80": script(never),
			}
		}, with: func(o *options) { o.timeout = 60 * s }, cancel: 40 * s},
		{name: "interrupted while connecting", network: plain(), with: func(o *options) {
			o.dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, cancel: s},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.urls == "" {
				test.urls = "http://10.0.0.1"
			}
			with := test.with
			test.with = func(o *options) {
				o.resolve["up.test:443"] = []string{"10.0.0.1"}
				o.resolve["other.test:443"] = []string{"10.0.0.1"}
				if with != nil {
					with(o)
				}
			}
			test.golden(t, "keepalive", keepAlive)
		})
	}
}

// TestInterruptIsFinal: what comes after an interrupt gets no time of its own.
func TestInterruptIsFinal(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	c := &connection{Conn: client}
	c.interrupt()
	c.allow(time.Hour)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("reading: %v, want %v", err, os.ErrDeadlineExceeded)
	}
}

// TestCaddyfile: what the command tells people to write loads.
func TestCaddyfile(t *testing.T) {
	for _, url := range []string{"http://10.0.0.1", "https://up.test:8443/x", "h2c://[::1]:9000", "unix//run/app.sock", "unix+h2c//run/app.sock"} {
		up, err := parseTarget(url)
		if err != nil {
			t.Fatal(err)
		}
		for _, after := range []time.Duration{50 * time.Millisecond, 1234 * time.Millisecond, 5 * time.Second, 75 * time.Second} {
			m := measurement{target: up, outcome: outcomeClosed, seen: idle{events: []event{{"FIN", after}}, closed: true}}
			for _, lines := range []string{m.settings().pool, m.settings().stock} {
				text := []byte("http://localhost {\n" + indent(lines) + "}\n")
				if formatted := caddyfile.Format(text); !bytes.Equal(formatted, text) {
					t.Errorf("not as `caddy fmt` has it:\n%s", text)
				}
				config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, nil)
				if err != nil || len(warnings) > 0 {
					t.Errorf("%v, %v in\n%s", err, warnings, text)
					continue
				}
				var apps struct{ Apps json.RawMessage }
				if err := json.Unmarshal(config, &apps); err != nil {
					t.Fatal(err)
				}
				testcaddy.Provision(t, string(apps.Apps), "")
			}
		}
	}
}
