package upstreampool

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/replay"
)

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
				var l connpool.Lease
				err := p.Acquire(t.Context(), connpool.Need{Freshness: connpool.Fresh}, &l)
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
