package replay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// connect returns a connection of net/http to a server that serves one connection.
func connect(t *testing.T, protocols func(*http.Protocols), serve func(net.Conn)) *http.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := listener.Accept()
		_ = listener.Close()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		serve(c)
	}()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	protocols(tr.Protocols)
	cc, err := tr.NewClientConn(context.Background(), "http", listener.Addr().String())
	if err != nil {
		_ = listener.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close(); <-done })
	return cc
}

func useH1(p *http.Protocols) { p.SetHTTP1(true) }
func useH2(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }

// serveH2 answers the first requests, and then does something else with each.
func serveH2(answered int, then func(p *h2.Peer, stream uint32)) func(net.Conn) {
	return func(c net.Conn) {
		p, err := h2.Server(c, c)
		for err == nil {
			var f http2.Frame
			f, err = p.Next()
			headers, ok := f.(*http2.MetaHeadersFrame)
			switch {
			case !ok:
			case answered > 0:
				answered--
				err = p.Headers(headers.StreamID, true, [2]string{":status", "200"})
			default:
				then(p, headers.StreamID)
			}
		}
	}
}

func roundTrip(t *testing.T, cc *http.ClientConn, method string, body io.Reader) error {
	t.Helper()
	req, err := http.NewRequest(method, "http://h.test/", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cc.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return err
}

// ended waits until net/http has noticed the end of a connection.
func ended(t *testing.T, cc *http.ClientConn) error {
	t.Helper()
	for range 1000 {
		if err := cc.Err(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the connection did not end")
	return nil
}

// What HTTP/2 upstreams say with a refusal, as this version of Go tells it.
//
// Checklist: P8, P33.
func TestRefusals(t *testing.T) {
	goAway := func(code http2.ErrCode) func(*h2.Peer, uint32) {
		return func(p *h2.Peer, stream uint32) { _ = p.WriteGoAway(stream-2, code, nil) }
	}
	reset := func(code http2.ErrCode) func(*h2.Peer, uint32) {
		return func(p *h2.Peer, stream uint32) { _ = p.WriteRSTStream(stream, code) }
	}
	for _, tc := range []struct {
		name string
		then func(*h2.Peer, uint32)
		want bool
	}{
		{"GOAWAY below the stream", goAway(http2.ErrCodeNo), true},
		{"GOAWAY below the stream, with an error", goAway(http2.ErrCodeEnhanceYourCalm), true},
		{"REFUSED_STREAM", reset(http2.ErrCodeRefusedStream), true},
		{"CANCEL", reset(http2.ErrCodeCancel), false},
		{"INTERNAL_ERROR", reset(http2.ErrCodeInternal), false},
		{"the connection is lost", func(p *h2.Peer, _ uint32) { _ = p.Close() }, false},
		{"GOAWAY that has seen the stream, and then the end", func(p *h2.Peer, stream uint32) {
			_ = p.WriteGoAway(stream, http2.ErrCodeNo, nil)
			_ = p.Close()
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cc := connect(t, useH2, serveH2(1, tc.then))
			if err := roundTrip(t, cc, "GET", nil); err != nil {
				t.Fatal(err)
			}
			for _, body := range []string{"", "x"} {
				err := roundTrip(t, cc, "POST", strings.NewReader(body))
				if err == nil || WasRefused(err) != tc.want {
					t.Errorf("body %q: refused is %v for %v, want %v", body, !tc.want, err, tc.want)
				}
				if _, again := (Outcome{H2: true, BodyKept: true, Failure: Failure{Refused: WasRefused(err)}}).Decide(); again != tc.want {
					t.Errorf("body %q: sent once more: %v after %v", body, again, err)
				}
				if cc.Err() != nil || cc.Available() == 0 {
					break
				}
			}
		})
	}
}

// A request on a connection that cannot take it any more is certain not to have
// been seen.
//
// Checklist: P8, P33.
func TestUnusableConnectionsRefuse(t *testing.T) {
	t.Run("after GOAWAY", func(t *testing.T) {
		cc := connect(t, useH2, serveH2(0, func(p *h2.Peer, stream uint32) {
			if stream == 1 {
				_ = p.WriteGoAway(1, http2.ErrCodeNo, nil)
				_ = p.Headers(1, true, [2]string{":status", "200"})
			}
		}))
		if err := roundTrip(t, cc, "GET", nil); err != nil {
			t.Fatal(err)
		}
		if err := roundTrip(t, cc, "POST", strings.NewReader("x")); err == nil || !WasRefused(err) {
			t.Errorf("not taken for a refusal: %v", err)
		}
	})
	t.Run("closed before its first request", func(t *testing.T) {
		cc := connect(t, useH2, func(c net.Conn) { _, _ = h2.Server(c, c) })
		t.Log(ended(t, cc))
		if err := roundTrip(t, cc, "POST", strings.NewReader("x")); err == nil || !WasRefused(err) {
			t.Errorf("not taken for a refusal: %v", err)
		}
	})
}

// Checklist: P5, P33.
func TestClosedWhileIdle(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(net.Conn)
		want bool
	}{
		{"FIN", func(c net.Conn) { _ = c.Close() }, true},
		{"RST", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }, true},
		{"408", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}, true},
		{"surplus bytes", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cc := connect(t, useH1, func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					time.Sleep(50 * time.Millisecond) // the response is read by then
					tc.end(c)
				}
			})
			if err := roundTrip(t, cc, "GET", nil); err != nil {
				t.Fatal(err)
			}
			if err := ended(t, cc); ClosedWhileIdle(err) != tc.want {
				t.Errorf("closed while idle is %v for %v", !tc.want, err)
			}
		})
	}
}

// net/http wraps what happened in types that reverse_proxy does not know.
//
// Checklist: P33.
func TestPlain(t *testing.T) {
	if err := errors.New("other"); Plain(err) != err || Plain(nil) != nil {
		t.Error("an error without wrapper was changed")
	}
	cc := connect(t, useH1, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
		}
	})
	err := roundTrip(t, cc, "POST", nil)
	if _, plain := err.(net.Error); err == nil || plain {
		t.Fatalf("error = %T (%v), want one that is wrapped", err, err)
	}
	if _, plain := Plain(err).(net.Error); !plain {
		t.Errorf("error = %T (%v), want the net.Error inside", Plain(err), err)
	}
}
