package upstreampool

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/h2"
)

// A frameConn is an HTTP/2 connection as its server sees it, frame by frame.
type frameConn struct {
	*h2.Peer
	n  int64
	id string // the Id field of the last request
}

// serveFrames starts an h2c server that calls handle for each connection.
func serveFrames(t testing.TB, handle func(c *frameConn), settings ...http2.Setting) *rawServer {
	return serveRaw(t, func(n int64, c net.Conn, r *bufioReader) {
		if fc := newFrameConn(c, r, n, settings...); fc != nil {
			handle(fc)
		}
	})
}

// newFrameConn starts HTTP/2 on c, whose bytes come from r.
func newFrameConn(c net.Conn, r io.Reader, n int64, settings ...http2.Setting) *frameConn {
	peer, err := h2.Server(c, r, settings...)
	if err != nil {
		return nil
	}
	return &frameConn{Peer: peer, n: n}
}

// request returns the next request's stream and method, answering SETTINGS and
// PING on the way, or 0.
func (c *frameConn) request() (uint32, string) {
	for {
		f, err := c.Next()
		if err != nil {
			return 0, ""
		}
		if f, ok := f.(*http2.MetaHeadersFrame); ok {
			c.id = ""
			for _, h := range f.RegularFields() {
				if h.Name == "id" {
					c.id = h.Value
				}
			}
			return f.StreamID, f.PseudoValue("method")
		}
	}
}

// requests are the streams that requests open, numbered from 0, until the
// connection ends.
func (c *frameConn) requests() iter.Seq2[int, uint32] {
	return func(yield func(int, uint32) bool) {
		for i := 0; ; i++ {
			stream, _ := c.request()
			if stream == 0 || !yield(i, stream) {
				return
			}
		}
	}
}

func (c *frameConn) respond(stream uint32, body string) {
	c.Headers(stream, false, [2]string{":status", "200"})
	c.WriteData(stream, true, []byte(body))
}

// framed makes connections of tr, which must be in a bubble, end in handle.
func framed(tr *Transport, handle func(c *frameConn)) {
	scripted(tr, func(n int64, c net.Conn, r *bufioReader) {
		q := queuedConn{c, make(chan []byte, 100)}
		defer close(q.queue)
		go func() {
			for b := range q.queue {
				_, _ = c.Write(b)
			}
		}()
		if fc := newFrameConn(q, r, n); fc != nil {
			handle(fc)
		}
	})
}

// A queuedConn does not wait until the peer reads, as a pipe does: two HTTP/2
// peers that do would wait for each other.
type queuedConn struct {
	net.Conn
	queue chan []byte
}

func (c queuedConn) Write(p []byte) (int, error) {
	c.queue <- bytes.Clone(p)
	return len(p), nil
}

func h2c(tr *Transport) {
	known(tr)
	tr.Versions = []string{"h2c"}
}

// h2cAtMost is h2c with so many connections, for which requests wait a second.
func h2cAtMost(maxConns int) func(*Transport) {
	return func(tr *Transport) {
		h2c(tr)
		tr.MaxConnsPerHost = maxConns
		tr.AcquireTimeout = caddy.Duration(time.Second)
	}
}

// hang sends a request that is not answered, until the test ends.
func hang(t *testing.T, tr *Transport, addr string) {
	ended := make(chan struct{})
	req := newRequest(t, "GET", addr, nil)
	go func() { send(tr, req); close(ended) }()
	t.Cleanup(func() { <-ended })
}

// Checklist: P8.
func TestRefusedStreamsAreReplayed(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		for name, refuse := range map[string]func(c *frameConn, stream uint32){
			"REFUSED_STREAM":    func(c *frameConn, s uint32) { c.WriteRSTStream(s, http2.ErrCodeRefusedStream) },
			"GOAWAY":            func(c *frameConn, s uint32) { c.WriteGoAway(s-2, http2.ErrCodeNo, nil) },
			"GOAWAY and an end": func(c *frameConn, s uint32) { c.WriteGoAway(s-2, http2.ErrCodeNo, nil); c.Close() },
		} {
			if fresh && name != "REFUSED_STREAM" {
				continue
			}
			for _, method := range []string{"GET", "POST"} {
				t.Run(fmt.Sprintf("%s %s fresh=%v", name, method, fresh), func(t *testing.T) {
					s := serveFrames(t, func(c *frameConn) {
						for i, stream := range c.requests() {
							if c.n == 1 && (i > 0 || fresh) {
								refuse(c, stream)
								continue
							}
							c.respond(stream, fmt.Sprint(c.n))
						}
					})
					tr := newTransport(t, h2c)
					if !fresh {
						mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
					}
					var body io.Reader
					if method == "POST" {
						body = strings.NewReader("body")
					}
					if got := mustSend(t, tr, newRequest(t, method, s.addr(), body)); got != "2" {
						t.Errorf("connection %s", got)
					}
					if st := onlyPool(t, tr).snapshot(); st.Replays[replay.Refused] != 1 {
						t.Errorf("replays = %v", st.Replays)
					}
				})
			}
		}
	}
}

// A refused request can do without a new connection, if there is no room for one.
//
// Checklist: P8.
func TestRefusedStreamInAFullPool(t *testing.T) {
	for name, tc := range map[string]struct {
		maxConns int
		refuse   func(c *frameConn, stream uint32)
	}{
		"REFUSED_STREAM": {1, func(c *frameConn, s uint32) { c.WriteRSTStream(s, http2.ErrCodeRefusedStream) }},
		"GOAWAY":         {2, func(c *frameConn, s uint32) { c.WriteGoAway(s-2, http2.ErrCodeNo, nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			s := serveFrames(t, func(c *frameConn) {
				for _, stream := range c.requests() {
					switch requests.Add(1) {
					case 1: // never answered
					case 2:
						tc.refuse(c, stream)
					default:
						c.respond(stream, "")
					}
				}
			})
			tr := newTransport(t, h2cAtMost(tc.maxConns))
			tg := tr.mustTarget(t, s.addr())
			p := tr.core.pool(&tg)
			for range tc.maxConns { // others keep all connections busy
				l, err := p.Acquire(t.Context(), connpool.Need{Freshness: connpool.Fresh})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Unused()
			}
			hang(t, tr, s.addr())
			eventually(t, "the server has it", func() bool { return requests.Load() == 1 })
			mustSend(t, tr, newRequest(t, "POST", s.addr(), strings.NewReader("x")))
			if n := p.snapshot().Replays[replay.Refused]; n != 1 {
				t.Errorf("%d replays", n)
			}
		})
	}
}

// An upstream that refuses a stream keeps the connection: that tells nothing
// about when it closes idle ones.
func TestRefusalIsNoRace(t *testing.T) {
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			switch {
			case i > 0 && c.n == 1:
				c.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			default:
				c.respond(stream, fmt.Sprint(c.n))
			}
		}
	})
	tr := newTransport(t, func(tr *Transport) { h2c(tr); tr.UpstreamKeepAlive = caddy.Duration(time.Second) })
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	time.Sleep(500 * time.Millisecond) // more than half of the limit
	if got := mustSend(t, tr, newRequest(t, "POST", s.addr(), strings.NewReader("x"))); got != "2" {
		t.Errorf("connection %s", got)
	}
	p := onlyPool(t, tr)
	if l := p.up.H2.Limit(time.Now(), idletime.Optional{}); p.snapshot().Races != 0 || l.Raised || l.Bound == idletime.BoundEarlyClose {
		t.Errorf("taken for a race: %v", l)
	}
}

// Checklist: P8.
func TestGoAwayAboveTheLastStream(t *testing.T) {
	// The stream is not above the last one: it may have been processed.
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			if i > 0 && c.n == 1 {
				c.WriteGoAway(stream, http2.ErrCodeNo, nil)
				return
			}
			c.respond(stream, fmt.Sprint(c.n))
		}
	})
	tr := newTransport(t, h2c)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	if _, _, err := send(tr, newRequest(t, "POST", s.addr(), strings.NewReader("x"))); err == nil {
		t.Error("a POST that may have been seen was replayed")
	}
}

// After a GOAWAY no stream is started on the connection.
//
// Checklist: P8.
func TestNoStreamAfterGoAway(t *testing.T) {
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			if i > 0 {
				t.Error("a stream after GOAWAY")
			}
			c.respond(stream, fmt.Sprint(c.n))
			time.Sleep(100 * time.Millisecond)
			c.WriteGoAway(stream, http2.ErrCodeNo, nil)
		}
	})
	tr := newTransport(t, h2c)
	for want := range 3 {
		if got := mustSend(t, tr, newRequest(t, "POST", s.addr(), strings.NewReader("x"))); got != fmt.Sprint(want+1) {
			t.Errorf("connection %s", got)
		}
		want := int64(want + 1)
		eventually(t, "the idle connection is closed", func() bool {
			ps := tr.core.all()
			return len(ps) == 0 || ps[0].snapshot().Closes[connpool.CloseUpstream] == want
		})
	}
	// And it is an observation of when the upstream closes.
	u := tr.core.upstreams.get(tr.mustTarget(t, s.addr()).upstream())
	if u.H2.Observed() == 0 {
		t.Error("the GOAWAY taught nothing")
	}
}

// A heldConn sends what is written after hold was set when it is closed: what
// ends a connection then arrives in one piece.
type heldConn struct {
	net.Conn
	hold bool
	held []byte
}

func (c *heldConn) Write(p []byte) (int, error) {
	if c.hold {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *heldConn) Close() error {
	_ = c.SetWriteDeadline(time.Time{}) // crypto/tls is done with it
	_, _ = c.Conn.Write(c.held)
	return c.Conn.Close()
}

// Over TLS, GOAWAY and close_notify often arrive together. The socket has no end
// of its own then, but it is an observation all the same.
func TestH2GoAwayWithCloseNotify(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			certified, _ := tlsServer(t, "h2")
			config := &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}, MaxVersion: version}
			s := serveRaw(t, func(n int64, c net.Conn, _ *bufioReader) {
				held := &heldConn{Conn: c}
				secure := tls.Server(held, config)
				fc := newFrameConn(secure, secure, n)
				if fc == nil {
					return
				}
				stream, _ := fc.request()
				fc.respond(stream, "ok")
				// What is not read by the time of the close would make it a reset.
				secure.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
				fc.request()
				held.hold = true
				fc.WriteGoAway(stream, http2.ErrCodeNo, nil)
				secure.Close()
			})
			tr := newTransport(t, insecure)
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			eventually(t, "the idle connection is closed", func() bool { return len(tr.core.all()) == 0 })
			tg := tr.mustTarget(t, s.addr())
			if u := tr.core.upstreams.get(tg.upstream()); u.H2.Observed() == 0 {
				t.Error("the close taught nothing")
			}
		})
	}
}

// The idle clock starts when the last stream ends, not when a slow client has
// read what arrived.
func TestH2IdleClockOfASlowReader(t *testing.T) {
	s := serveFrames(t, func(c *frameConn) {
		for _, stream := range c.requests() {
			c.respond(stream, "body")
		}
	})
	tr := newTransport(t, h2c)
	age := func(readAfter time.Duration, giveUp bool) (age, most time.Duration) {
		start := time.Now()
		resp, err := tr.RoundTrip(newRequest(t, "GET", s.addr(), nil))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(readAfter)
		if !giveUp {
			io.Copy(io.Discard, resp.Body)
		}
		resp.Body.Close()
		p := onlyPool(t, tr)
		return p.Snapshot().IdleAges[0], time.Since(start)
	}
	if d, most := age(0, false); d > most {
		t.Errorf("age after a quick read = %v, want at most %v", d, most)
	}
	const late = 500 * time.Millisecond
	for _, giveUp := range []bool{false, true} {
		// The response may arrive somewhat behind its header.
		if d, most := age(late, giveUp); d < late/2 || d > most {
			t.Errorf("age after a slow read (given up: %v) = %v, want %v to %v", giveUp, d, late, most)
		}
	}
}

// A grant moves no idle clock: its stream may begin later, or never. Connections
// were closed for their age that had carried a request just now, and others were
// taken for younger than they were.
func TestH2IdleClockOfGrants(t *testing.T) {
	const latency = 300 * time.Millisecond
	n := connpool.Need{Replayable: true, Bodyless: true}
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, tr *Transport, p *pool)
		want time.Duration // age
	}{
		{"given back after the last stream", func(t *testing.T, tr *Transport, p *pool) {
			l := acquire(t, p, n)
			for range 4 {
				mustSend(t, tr, get(t))
			}
			time.Sleep(time.Millisecond)
			l.Unused()
		}, time.Millisecond},
		{"given back before a slow client has read", func(t *testing.T, tr *Transport, p *pool) {
			resp, err := tr.RoundTrip(get(t))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(latency)
			l := acquire(t, p, n)
			l.Unused()
			time.Sleep(latency)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}, 2 * latency},
		{"used after the stream before has ended", func(t *testing.T, tr *Transport, p *pool) {
			done := make(chan string)
			go func() { done <- mustSend(t, tr, get(t)) }()
			synctest.Wait()
			l := acquire(t, p, n)
			<-done
			req := get(t)
			tr.setScheme(req)
			resp, err := l.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			l.Done(resp)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, h2c, func(t *testing.T, tr *Transport, _ *pipeServer) {
				framed(tr, func(c *frameConn) {
					for _, stream := range c.requests() {
						time.Sleep(latency)
						c.respond(stream, "body")
					}
				})
				mustSend(t, tr, get(t))
				p := onlyPool(t, tr)
				tc.do(t, tr, p)
				synctest.Wait()
				if age := p.Snapshot().IdleAges[0]; age != tc.want {
					t.Errorf("age = %v, want %v", age, tc.want)
				}
			})
		})
	}
}

func TestH2ConnectionLost(t *testing.T) {
	var seen atomic.Int64
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			seen.Add(1)
			if i > 0 {
				return
			}
			c.respond(stream, fmt.Sprint(c.n))
		}
	})
	tr := newTransport(t, h2c)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "2" {
		t.Errorf("GET: connection %s", got)
	}
	if _, _, err := send(tr, newRequest(t, "POST", s.addr(), strings.NewReader("x"))); err == nil {
		t.Error("a POST that may have been seen was replayed")
	}
	if n := seen.Load(); n != 4 {
		t.Errorf("%d requests were seen, want GET, GET and its replay, POST", n)
	}
}

func TestH2StreamResetIsNoReplay(t *testing.T) {
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			if i == 1 {
				c.WriteRSTStream(stream, http2.ErrCodeInternal)
				continue
			}
			c.respond(stream, fmt.Sprint(c.n))
		}
	})
	tr := newTransport(t, h2c)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	_, _, err := send(tr, newRequest(t, "GET", s.addr(), nil))
	var se http2.StreamError
	if !errors.As(err, &se) || se.Code != http2.ErrCodeInternal {
		t.Errorf("error = %v", err)
	}
	if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
		t.Errorf("the connection was given up for one stream: %s", got)
	}
}

// The error texts that the replay rule goes by are the real ones.
func TestErrorTexts(t *testing.T) {
	t.Run("GOAWAY and unusable", func(t *testing.T) {
		s := serveFrames(t, func(c *frameConn) {
			stream, _ := c.request()
			c.respond(stream, "")
			stream, _ = c.request()
			c.WriteGoAway(stream-2, http2.ErrCodeNo, nil)
			c.request()
		})
		c := dialed(t, s.addr(), true)
		defer c.Close()
		req := newRequest(t, "GET", s.addr(), nil)
		req.URL.Scheme = "http"
		resp, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if _, err := c.RoundTrip(req); err == nil || !replay.WasRefused(err) {
			t.Errorf("error = %v, want one that tells of a refusal", err)
		}
		if _, err := c.RoundTrip(req); err == nil || !replay.WasRefused(err) {
			t.Errorf("error = %v, want one that tells of a refusal", err)
		}
	})
	t.Run("not established", func(t *testing.T) {
		s := serveFrames(t, func(*frameConn) {})
		c := dialed(t, s.addr(), true)
		eventually(t, "the connection is closed", func() bool { return c.Err() != nil })
		req := newRequest(t, "GET", s.addr(), nil)
		req.URL.Scheme = "http"
		if _, err := c.RoundTrip(req); err == nil || !replay.WasRefused(err) {
			t.Errorf("error = %v, want one that tells of a refusal", err)
		}
	})
	t.Run("server closed idle connection", func(t *testing.T) {
		s := serveRaw(t, func(int64, net.Conn, *bufioReader) {})
		c := dialed(t, s.addr(), false)
		eventually(t, "the connection is closed", func() bool { return c.Err() != nil })
		if err := c.Err(); !replay.ClosedWhileIdle(err) {
			t.Errorf("error = %v, want one that tells of an end while idle", err)
		}
	})
	t.Run("wrappers", func(t *testing.T) {
		inner := errors.New("inner")
		if replay.Plain(inner) != inner {
			t.Error("an error without wrapper was changed")
		}
		var seen atomic.Int64
		s := serveRaw(t, dieOnSecond(&seen, rst))
		tr := newTransport(t, known)
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
		_, _, err := send(tr, newRequest(t, "POST", s.addr(), nil))
		if _, ok := err.(net.Error); !ok {
			t.Errorf("error is a %T (%v), want the net.Error inside", err, err)
		}
	})
}

// tlsServer starts an HTTPS server that answers with the server name of the
// connection it was asked on, and counts connections.
func tlsServer(t testing.TB, protocols ...string) (*httptest.Server, *atomic.Int64) {
	return idlingTLSServer(t, 0, protocols...)
}

// idlingTLSServer is tlsServer with an idle timeout.
func idlingTLSServer(t testing.TB, idle time.Duration, protocols ...string) (*httptest.Server, *atomic.Int64) {
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s", r.Proto, r.TLS.ServerName)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Config.IdleTimeout = idle
	srv.TLS = &tls.Config{NextProtos: protocols}
	srv.EnableHTTP2 = len(protocols) > 0 && protocols[0] == "h2"
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, &conns
}

func insecure(tr *Transport) {
	known(tr)
	tr.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}
}

func TestH2OverTLS(t *testing.T) {
	srv, conns := tlsServer(t, "h2")
	tr := newTransport(t, insecure)
	addr := srv.Listener.Addr().String()
	if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0 example.com" {
		t.Fatalf("answer = %q", got)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if _, _, err := send(tr, newRequest(t, "POST", addr, strings.NewReader("x"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 50 at once, want one", n)
	}
	p := onlyPool(t, tr)
	if st := p.snapshot(); st.Connections["busy"] != 0 || st.Connections["idle"] != 1 || st.Protocol != "h2" {
		t.Errorf("state = %+v", st)
	}
}

// Which protocol is spoken follows from versions, as with transport http.
func TestVersions(t *testing.T) {
	srv, _ := tlsServer(t, "h2", "http/1.1")
	for _, tc := range []struct {
		versions []string
		want     string
	}{
		{nil, "HTTP/2.0"},
		{[]string{"1.1", "2"}, "HTTP/2.0"},
		{[]string{"2"}, "HTTP/2.0"},
		{[]string{"h2c", "2"}, "HTTP/2.0"},
		{[]string{"1.1"}, "HTTP/1.1"},
	} {
		tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.Versions = tc.versions })
		for range 2 {
			if got, _, _ := strings.Cut(mustSend(t, tr, newRequest(t, "GET", srv.Listener.Addr().String(), nil)), " "); got != tc.want {
				t.Errorf("versions %v: %s, want %s", tc.versions, got, tc.want)
			}
		}
		if st := onlyPool(t, tr).snapshot(); st.Opened != 1 {
			t.Errorf("versions %v: %d connections", tc.versions, st.Opened)
		}
	}
}

// A burst towards a server known to speak HTTP/2 opens one connection.
func TestH2OneDialAtATime(t *testing.T) {
	srv, conns := tlsServer(t, "h2")
	tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.MaxRequests = 1 })
	addr := srv.Listener.Addr().String()
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	eventually(t, "no connection", func() bool { return len(tr.core.all()) == 0 })
	tr.core.group.Config().MaxRequests = 0
	before := conns.Load()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { mustSend(t, tr, newRequest(t, "GET", addr, nil)) })
	}
	wg.Wait()
	if n := conns.Load() - before; n != 1 {
		t.Errorf("%d connections for a burst, want one", n)
	}
}

// A connection carries no more requests than it may, also when many wait as it
// is opened: with keepalive off they failed with 502.
func TestH2RequestsPerConnection(t *testing.T) {
	off := false
	for _, tc := range []struct {
		name   string
		change func(*Transport)
		most   int
		reason connpool.CloseReason
	}{
		{"keepalive off", func(tr *Transport) { tr.KeepAlive = &reverseproxy.KeepAlive{Enabled: &off} }, 1, connpool.CloseRequested},
		{"max_requests 1", func(tr *Transport) { tr.MaxRequests = 1 }, 1, connpool.CloseMaxRequests},
		{"max_requests 2", func(tr *Transport) { tr.MaxRequests = 2 }, 2, connpool.CloseMaxRequests},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			carried := make(map[int64]int)
			s := serveFrames(t, func(c *frameConn) {
				for _, stream := range c.requests() {
					mu.Lock()
					carried[c.n]++
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
					c.respond(stream, "")
				}
			})
			tr := newTransport(t, func(tr *Transport) { tr.Versions = []string{"h2c"}; tc.change(tr) })
			tg := tr.mustTarget(t, s.addr())
			p := tr.core.pool(&tg)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, _, err := send(tr, newRequest(t, "POST", s.addr(), nil)); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			mu.Lock()
			defer mu.Unlock()
			for n, requests := range carried {
				if requests > tc.most {
					t.Errorf("connection %d carried %d requests, want at most %d", n, requests, tc.most)
				}
			}
			eventually(t, "all are closed for that", func() bool { return p.snapshot().Closes[tc.reason] == int64(20/tc.most) })
		})
	}
}

// More requests than streams: those that do not fit wait, or get another
// connection, and none fails.
func TestH2StreamLimit(t *testing.T) {
	for _, maxConns := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(maxConns), func(t *testing.T) {
			s := serveFrames(t, func(c *frameConn) {
				for _, stream := range c.requests() {
					time.Sleep(time.Millisecond)
					c.respond(stream, "")
				}
			}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
			tr := newTransport(t, func(tr *Transport) { h2c(tr); tr.MaxConnsPerHost = maxConns })
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			var wg sync.WaitGroup
			for range 40 {
				wg.Go(func() { mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)) })
			}
			wg.Wait()
			if n := s.conns.Load(); maxConns > 0 && n > int64(maxConns) || n > 41 {
				t.Errorf("%d connections", n)
			}
			p := onlyPool(t, tr)
			if st := p.snapshot().Connections; st["busy"] != 0 {
				t.Errorf("connections = %v", st)
			}
		})
	}
}

// A response that has arrived, but that a slow client has not read yet, holds no
// stream: other requests got 503, or a connection of their own.
func TestH2ArrivedResponseHoldsNoStream(t *testing.T) {
	for _, waits := range []bool{false, true} {
		t.Run(fmt.Sprintf("someone waits=%v", waits), func(t *testing.T) {
			release := make(chan struct{})
			s := serveFrames(t, func(c *frameConn) {
				for i, stream := range c.requests() {
					if i == 1 {
						<-release
					}
					c.respond(stream, "body")
				}
			}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
			tr := newTransport(t, h2cAtMost(1))
			mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
			p := onlyPool(t, tr)
			slow, next := make(chan *http.Response, 1), make(chan error, 1)
			go func() {
				resp, err := tr.RoundTrip(newRequest(t, "GET", s.addr(), nil))
				if err != nil {
					t.Error(err)
				}
				slow <- resp
			}()
			eventually(t, "the stream is in use", func() bool { return p.snapshot().Connections["busy"] == 1 })
			ask := func() { _, _, err := send(tr, newRequest(t, "GET", s.addr(), nil)); next <- err }
			if waits {
				go ask()
				eventually(t, "a request waits", func() bool { return p.snapshot().Waiting == 1 })
			}
			close(release)
			resp := <-slow
			if resp == nil {
				return
			}
			defer resp.Body.Close()
			if !waits {
				time.Sleep(50 * time.Millisecond) // the stream ends, though nobody has read it
				go ask()
			}
			if err := <-next; err != nil {
				t.Errorf("with a free stream: %v", err)
			}
		})
	}
}

// A stream that its request gave up before using it, cancelled as it was granted,
// goes to whoever waits: it waited for a stream that was free, or for ever.
func TestH2UnusedStreamServesAWaiter(t *testing.T) {
	s := serveFrames(t, func(c *frameConn) {
		for i, stream := range c.requests() {
			if i != 1 { // the second request is never answered
				c.respond(stream, "")
			}
		}
	}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	tr := newTransport(t, h2cAtMost(1))
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	p := onlyPool(t, tr)
	hang(t, tr, s.addr())
	eventually(t, "one stream is in use", func() bool { return p.snapshot().Connections["busy"] == 1 })
	l, err := p.Acquire(t.Context(), connpool.Need{}) // the other one
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := send(tr, newRequest(t, "GET", s.addr(), nil)); done <- err }()
	eventually(t, "a request waits", func() bool { return p.snapshot().Waiting == 1 })
	l.Unused()
	if err := <-done; err != nil {
		t.Errorf("with a free stream: %v", err)
	}
}

// Checklist: P5.
func TestCloseNotify(t *testing.T) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			const idle = 500 * time.Millisecond
			srv, _ := idlingTLSServer(t, idle, protocol)
			tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.UpstreamKeepAlive = 0 })
			addr := srv.Listener.Addr().String()
			start := time.Now()
			mustSend(t, tr, newRequest(t, "GET", addr, nil))
			p := onlyPool(t, tr)
			eventually(t, "the connection is gone", func() bool { return p.snapshot().Closes[connpool.CloseUpstream] == 1 })
			most := time.Since(start)
			mustSend(t, tr, newRequest(t, "POST", addr, strings.NewReader("x")))
			if st := p.snapshot(); len(st.Replays) != 0 {
				t.Errorf("replays = %v", st.Replays)
			}
			l := p.up.Learner(protocol == "h2").Limit(time.Now(), idletime.Optional{})
			if l.Bound != idletime.BoundEarlyClose || l.EarlyClose < idle/2 || l.EarlyClose > most {
				t.Errorf("limit = %v, want it capped by a close after %v", l, idle)
			}
		})
	}
}

// An Upgrade goes over HTTP/1 even where HTTP/2 is spoken.
func TestUpgradeTowardsH2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, r.Proto)
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, c)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	tr := newTransport(t, insecure)
	addr := srv.Listener.Addr().String()
	if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0" {
		t.Errorf("proto = %s", got)
	}
	req := newRequest(t, "GET", addr, nil)
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
		t.Errorf("echo = %q, %v", buf, err)
	}
	rw.Close()
	if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0" {
		t.Errorf("afterwards: proto = %s", got)
	}
}

// What answers an Upgrade with HTTP/1.0 may still take a large body of unknown length
// over HTTP/2.
func TestNoLengthNeededTowardsH2(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufioReader) {
		if start, _ := r.Peek(3); string(start) != "PRI" {
			readRequest(r)
			io.WriteString(c, "HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
			return
		}
		fc := newFrameConn(c, r, n)
		for _, stream := range fc.requests() {
			fc.respond(stream, "h2") // without having read the body
		}
	})
	tr := newTransport(t, h2c)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	upgrade := newRequest(t, "GET", s.addr(), nil)
	upgrade.Header.Set("Connection", "Upgrade")
	upgrade.Header.Set("Upgrade", "websocket")
	if status, _, err := send(tr, upgrade); status != http.StatusServiceUnavailable {
		t.Fatalf("status %d, %v", status, err)
	}
	req := newRequest(t, "POST", s.addr(), io.NopCloser(strings.NewReader(strings.Repeat("a", replay.MaxKept+1))))
	req.ContentLength = -1
	if got := mustSend(t, tr, req); got != "h2" {
		t.Errorf("answer %q", got)
	}
}

// Checklist: P17.
func TestH2C(t *testing.T) {
	headers := make(chan http.Header, 2)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		fmt.Fprint(w, r.Proto)
	}))
	srv.Config.Protocols = &p
	srv.Start()
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	for versions, want := range map[string]string{"h2c": "HTTP/2.0", "1.1": "HTTP/1.1"} {
		for _, tc := range []struct {
			name                          string
			upgrade, connection, settings string
			passedOn                      string // of Upgrade
		}{
			{"as RFC 7540 had it", "h2c", "Upgrade, HTTP2-Settings", "AAMAAABkAAQAAP__", ""},
			{"as reverse_proxy leaves it", "h2c", "Upgrade", "", ""},
			{"beside another protocol", "h2c, websocket", "Upgrade", "", "websocket"},
		} {
			t.Run(versions+" "+tc.name, func(t *testing.T) {
				tr := newTransport(t, func(tr *Transport) { known(tr); tr.Versions = []string{versions} })
				req := newRequest(t, "GET", addr, nil)
				req.Header.Set("Connection", tc.connection)
				req.Header.Set("Upgrade", tc.upgrade)
				if tc.settings != "" {
					req.Header.Set("Http2-Settings", tc.settings)
				}
				want := want
				if tc.passedOn != "" {
					want = "HTTP/1.1"
				}
				if got := mustSend(t, tr, req); got != want {
					t.Errorf("proto %s, want %s", got, want)
				}
				h := <-headers
				if got := h.Get("Upgrade"); got != tc.passedOn {
					t.Errorf("Upgrade: %q was passed on, want %q", got, tc.passedOn)
				}
				if h.Get("Http2-Settings") != "" {
					t.Errorf("Http2-Settings: %q was passed on", h.Get("Http2-Settings"))
				}
				if tc.passedOn == "" && strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade") {
					t.Errorf("Connection: %q was passed on", h.Get("Connection"))
				}
				if req.Header.Get("Upgrade") != tc.upgrade {
					t.Error("the caller's header was changed")
				}
			})
		}
	}
}

func TestH2Cancel(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Hang") != "" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "ok")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	defer close(release)
	tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.AcquireTimeout = caddy.Duration(time.Second) })
	addr := srv.Listener.Addr().String()
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	for range 20 {
		ctx, cancel := contextWithTimeout(t, 5*time.Millisecond)
		req := requestTo(t, ctx, "GET", "tcp", addr, nil)
		req.Header.Set("Hang", "1")
		if _, _, err := send(tr, req); err == nil {
			t.Error("no error")
		}
		cancel()
	}
	mustSend(t, tr, newRequest(t, "GET", addr, nil))
	p := onlyPool(t, tr)
	if st := p.snapshot(); st.Connections["busy"] != 0 || st.Opened != 1 || len(st.Replays) != 0 {
		t.Errorf("state = %+v", st)
	}
}
