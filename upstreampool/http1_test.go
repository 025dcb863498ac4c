package upstreampool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// Checklist: P9.
func TestEarlyResponse(t *testing.T) {
	stopped := make(chan int64, 1)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if n > 1 {
			fake.Respond(c, strconv.FormatInt(n, 10))
			fake.ReadRequest(r)
			return
		}
		io.CopyN(io.Discard, req.Body, 1000)
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
		read, _ := io.Copy(io.Discard, req.Body)
		stopped <- read
	})
	tr := newTransport(t, known)
	pr, pw := io.Pipe()
	go func() {
		for {
			if _, err := pw.Write(make([]byte, 1000)); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	status, _, err := send(tr, newRequest(t, "POST", s.addr(), pr))
	if err != nil || status != http.StatusRequestEntityTooLarge {
		t.Fatalf("status %d, %v; want 413", status, err)
	}
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("the upload goes on")
	}
	if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got == "1" {
		t.Error("the connection was reused")
	}
}

// Checklist: P10.
func TestBrokenResponses(t *testing.T) {
	for _, tc := range []struct{ name, response string }{
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
		{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"},
		{"length is text", "HTTP/1.1 200 OK\r\nContent-Length: one\r\n\r\na"},
		{"unknown transfer coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: foo\r\n\r\na"},
		{"chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"},
		{"bad chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"},
		{"chunked without its end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
		{"truncated header", "HTTP/1.1 200 OK\r\nContent-Le"},
		{"no HTTP", "hello\r\n\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				fake.ReadRequest(r)
				if n > 1 {
					fake.Respond(c, "fine")
					return
				}
				io.WriteString(c, tc.response)
			})
			tr := newTransport(t, known)
			if status, body, err := send(tr, newRequest(t, "GET", s.addr(), nil)); err == nil {
				t.Errorf("status %d, body %q; want an error", status, body)
			}
			if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "fine" || s.conns.Load() != 2 {
				t.Errorf("the next request: %q on connection %d", got, s.conns.Load())
			}
		})
	}
	t.Run("length and chunked", func(t *testing.T) {
		// RFC 9112 section 6.3: Transfer-Encoding wins, or it is an error; in no
		// case does the length delimit the body.
		s := serveRaw(t, script("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n"))
		if _, body, err := send(newTransport(t, known), newRequest(t, "GET", s.addr(), nil)); err == nil && body != "abcdef" {
			t.Errorf("body = %q", body)
		}
	})
}

// Checklist: P18.
func TestNoChunkedToHTTP10(t *testing.T) {
	type got struct {
		te, cl string
		body   int
	}
	requests := make(chan got, 4)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		requests <- got{strings.Join(req.TransferEncoding, ","), req.Header.Get("Content-Length"), len(b)}
		io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	<-requests
	unknown := func(n int) *http.Request {
		req := newRequest(t, "POST", s.addr(), &countingBody{Reader: strings.NewReader(strings.Repeat("a", n))})
		req.ContentLength = -1
		return req
	}
	for _, n := range []int{0, 1, replay.MaxKept} {
		req := unknown(n)
		mustSend(t, tr, req)
		if g := <-requests; g.te != "" || g.cl != strconv.Itoa(n) || g.body != n {
			t.Errorf("body of %d: %+v", n, g)
		}
		// net/http closes the others.
		if closes := req.Body.(*countingBody).closes(); n == 0 && closes != 1 {
			t.Errorf("an empty body was closed %d times", closes)
		}
	}
	_, _, err := send(tr, unknown(replay.MaxKept+1))
	var he caddyhttp.HandlerError
	if !errors.As(err, &he) || he.StatusCode != http.StatusLengthRequired {
		t.Errorf("error = %v, want 411", err)
	}
}

// Checklist: P21.
func TestInformationalAndUpgrade(t *testing.T) {
	t.Run("103", func(t *testing.T) {
		s := serveRaw(t, script("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"+ok1, ok1))
		tr := newTransport(t, known)
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, h.Get("Link")))
				return nil
			},
		})
		mustSend(t, tr, requestTo(t, ctx, "GET", "tcp", s.addr(), nil))
		if len(hints) != 1 || hints[0] != "103</a.css>" {
			t.Errorf("hints = %q", hints)
		}
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
			t.Errorf("connection %s", got)
		}
	})
	t.Run("101", func(t *testing.T) {
		s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
			req := fake.ReadRequest(r)
			if req == nil {
				return
			}
			if req.Header.Get("Upgrade") == "" {
				fake.Respond(c, strconv.FormatInt(n, 10))
				fake.ReadRequest(r)
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			io.Copy(c, r) // echo
		})
		tr := newTransport(t, known)
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		rw := resp.Body.(io.ReadWriteCloser)
		io.WriteString(rw, "ping")
		buf := make([]byte, 4)
		if _, err := io.ReadFull(rw, buf); err != nil || string(buf) != "ping" {
			t.Fatalf("echo = %q, %v", buf, err)
		}
		p := onlyPool(t, tr)
		if st := p.snapshot().Connections; st["upgraded"] != 1 || st["idle"]+st["busy"] != 0 {
			t.Errorf("connections = %v", st)
		}
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "2" {
			t.Errorf("connection %s", got)
		}
		if cw, ok := rw.(interface{ CloseWrite() error }); !ok || cw.CloseWrite() != nil {
			t.Error("the upgraded connection cannot be half-closed")
		}
		if rest, err := io.ReadAll(rw); err != nil || len(rest) != 0 {
			t.Errorf("after closing our half: %q, %v", rest, err)
		}
		rw.Close()
		eventually(t, "it is counted as closed", func() bool {
			st := p.snapshot()
			return st.Connections["upgraded"] == 0 && st.Closes[connpool.CloseUpgraded] == 1
		})
	})
}

// Apache and Tomcat announce their timeout only to a request that has a
// Connection: keep-alive. It goes with the first request of a connection, and
// the caller's header stays as it is.
func TestElicitingTheAnnouncement(t *testing.T) {
	connection := make(chan string, 10)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := fake.ReadRequest(r)
			if req == nil {
				return
			}
			connection <- req.Header.Get("Connection")
			if req.Header.Get("Connection") == "keep-alive" {
				fake.Respond(c, "", "Connection: keep-alive", "Keep-Alive: timeout=7")
			} else {
				fake.Respond(c, "")
			}
		}
	})
	tr := newTransport(t, nil)
	for _, want := range []string{"keep-alive", ""} {
		req := newRequest(t, "GET", s.addr(), nil)
		mustSend(t, tr, req)
		if got := <-connection; got != want {
			t.Errorf("Connection: %q, want %q", got, want)
		}
		if req.Header["Connection"] != nil {
			t.Error("the caller's header was changed")
		}
	}
	if st := onlyPool(t, tr).snapshot(); st.Source != idletime.SourceAnnounced || st.KeepAlive != 7 || st.Why != "idle limit 6.65 s: announced timeout 7 s minus margin 350 ms" {
		t.Errorf("state = %+v", st)
	}
	off := newTransport(t, func(tr *Transport) {
		no := false
		tr.KeepAlive = &reverseproxy.KeepAlive{Enabled: &no}
	})
	mustSend(t, off, newRequest(t, "GET", s.addr(), nil))
	if got := <-connection; got != "close" {
		t.Errorf("with keepalive off: Connection: %q", got)
	}
}

// Trailers go both ways, and a replay has those of the request, too.
func TestTrailers(t *testing.T) {
	for _, replayed := range []bool{false, true} {
		t.Run(fmt.Sprintf("replayed=%v", replayed), func(t *testing.T) {
			s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
				for i := 0; ; i++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					if replayed && n == 1 && i == 1 {
						return
					}
					fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Back\r\n\r\n2\r\nok\r\n0\r\nBack: %s\r\n\r\n", req.Trailer.Get("Forth"))
				}
			})
			tr := newTransport(t, known)
			for range 2 {
				req := newRequest(t, "PUT", s.addr(), nil)
				req.Trailer = http.Header{"Forth": nil}
				req.ContentLength = -1
				req.Body = &trailerBody{Reader: strings.NewReader("body"), trailer: req.Trailer}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.Trailer.Get("Back") != "value" {
					t.Errorf("trailer = %v", resp.Trailer)
				}
			}
			if replays := onlyPool(t, tr).snapshot().Replays[replay.NoResponse]; (replays == 1) != replayed || s.conns.Load() != 1+replays {
				t.Errorf("%d replays, %d connections", replays, s.conns.Load())
			}
		})
	}
}

// trailerBody fills in the trailers at its end, as reverse_proxy does.
type trailerBody struct {
	io.Reader
	trailer http.Header
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.trailer.Set("Forth", "value")
	}
	return n, err
}

func (b *trailerBody) Close() error { return nil }

func TestExpectContinue(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.Header.Get("Refuse") != "" {
				io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				return
			}
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			b, _ := io.ReadAll(req.Body)
			fake.Respond(c, string(b))
		}
	})
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ExpectContinueTimeout = caddy.Duration(5 * time.Second) })
	for range 2 {
		req := newRequest(t, "POST", s.addr(), strings.NewReader("body"))
		req.Header.Set("Expect", "100-continue")
		if got := mustSend(t, tr, req); got != "body" {
			t.Errorf("body = %q", got)
		}
	}
	body := &countingBody{Reader: strings.NewReader("body")}
	req := newRequest(t, "POST", s.addr(), body)
	req.ContentLength = 4
	req.Header.Set("Expect", "100-continue")
	req.Header.Set("Refuse", "1")
	if status, _, err := send(tr, req); status != 417 || err != nil {
		t.Errorf("status %d, error %v", status, err)
	}
}
