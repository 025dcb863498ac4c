package upstreampool

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

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
	t.Parallel()
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
	bubble(t, h2c, func(t *testing.T, tr *Transport, _ *pipeServer) {
		framed(tr, func(c *frameConn) {
			for _, stream := range c.requests() {
				c.respond(stream, "body")
			}
		})
		for _, late := range []time.Duration{0, 500 * time.Millisecond} {
			for _, giveUp := range []bool{false, true} {
				resp, err := tr.RoundTrip(get(t))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the response has arrived
				time.Sleep(late)
				if !giveUp {
					io.Copy(io.Discard, resp.Body)
				}
				resp.Body.Close()
				if age := onlyPool(t, tr).Snapshot().IdleAges[0]; age != late {
					t.Errorf("age after %v (given up: %v) = %v", late, giveUp, age)
				}
			}
		}
	})
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
			l.Done(resp, time.Now())
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

// Checklist: P5.
func TestCloseNotify(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			const idle = 800 * time.Millisecond
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
