package connpool

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/memory"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
)

func TestMain(m *testing.M) {
	Strict = true
	parallel.AtLeast(16) // those about lost packets wait only
	os.Exit(m.Run())
}

// A bench is a pool in a synctest bubble, whose connections end in a function.
type bench struct {
	*Pool
	group *Group
	seen  recorder
	dials atomic.Int64
	// dialing is called with the number of each dial, from 1, and may wait or fail.
	dialing func(n int64) error
	// wrapped is called with the socket of each dial, and may fail while that is open.
	wrapped func(c net.Conn) error
	serve   func(n int64, c net.Conn)
	connect func() (net.Conn, error) // nil: to serve, by a pipe
	probes  int                      // of TCP that may stay without an answer
	h2      bool
	known   *memory.Upstream // of all pools
}

// A recorder counts events.
type recorder struct {
	mu     sync.Mutex
	closes map[CloseReason]int
	failed int
	hedged int
}

func (r *recorder) Opened()                      {}
func (r *recorder) Waited(time.Duration)         {}
func (r *recorder) Refused(error)                {}
func (r *recorder) SawClose(time.Duration, bool) {}
func (r *recorder) DialFailed(error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed++
}

func (r *recorder) Hedged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hedged++
}

func (r *recorder) hedges() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hedged
}

func (r *recorder) Closed(reason CloseReason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closes == nil {
		r.closes = make(map[CloseReason]int)
	}
	r.closes[reason]++
}

func (r *recorder) closed(reason CloseReason) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closes[reason]
}

// inBubble runs f in a bubble with a pool whose upstream keeps connections for a
// minute; change may say otherwise.
func inBubble(t *testing.T, change func(cfg *Config, b *bench), f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{
			Idle:  idletime.Config{MaxIdle: 2 * time.Minute, KeepAlive: time.Minute},
			Reuse: true, MaxPending: 100, AcquireTimeout: 5 * time.Second,
		}
		b := &bench{serve: answer}
		if change != nil {
			change(&cfg, b)
		}
		b.group = NewGroup(cfg)
		b.known = &memory.Upstream{H1: idletime.NewLearner(cfg.Idle, nil), H2: idletime.NewLearner(cfg.Idle, nil)}
		b.Pool = b.another()
		f(t, b)
		b.group.Retire()
		b.Drain()
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// another returns a pool of the same group.
func (b *bench) another() *Pool {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	protocol := memory.HTTP1
	if tr.Protocols.SetHTTP1(!b.h2); b.h2 {
		protocol = memory.HTTP2
		//lint:ignore SA1019 Caddy configures HTTP/2 like this
		if err := http2.ConfigureTransport(tr); err != nil {
			panic(err)
		}
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	type key struct{}
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		dial := ctx.Value(key{}).(*Dial)
		if b.connect != nil {
			nc, err := b.connect()
			if err != nil {
				return nil, err
			}
			return dial.Wrap(nc, true), nil
		}
		client, server := net.Pipe()
		n := b.dials.Add(1)
		if b.dialing != nil {
			if err := b.dialing(n); err != nil {
				return nil, err
			}
		}
		go func() {
			defer server.Close()
			b.serve(n, server)
		}()
		c := dial.Wrap(client, true)
		if b.wrapped != nil {
			if err := b.wrapped(c); err != nil {
				return nil, err
			}
		}
		return c, nil
	}
	return b.group.NewPool(Options{
		Memory:   b.known,
		Protocol: protocol,
		Events:   &b.seen,
		Emptied:  func() {},
		Dial: func(d *Dial) (Dialed, error) {
			cc, err := tr.NewClientConn(context.WithValue(context.Background(), key{}, d), "http", "upstream.test:80")
			return Dialed{Conn: cc, HTTP2: b.h2}, err
		},
	})
}

// answer answers each HTTP/1 request with the number of its connection.
func answer(n int64, c net.Conn) {
	for r := bufio.NewReader(c); ; {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		body := fmt.Sprint(n)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

// acquire gets a connection.
func acquire(ctx context.Context, p *Pool, n Need) (l Lease, err error) {
	err = p.Acquire(ctx, n, &l)
	return l, err
}

// mustAcquire gets a connection.
func mustAcquire(t *testing.T, p *Pool, n Need) Lease {
	t.Helper()
	l, err := acquire(t.Context(), p, n)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var anything = Need{Replayable: true, Bodyless: true}

// begin sends a GET on a lease and returns the response, whose body is to be read.
func begin(l *Lease) (*http.Response, error) {
	req, _ := http.NewRequest("GET", "http://upstream.test/", nil)
	resp, err := l.RoundTrip(req)
	if err != nil {
		l.Fail(err, false)
		return nil, err
	}
	l.Done(resp, time.Now())
	return resp, nil
}

// get sends a GET on a lease and reads the response.
func get(l *Lease) (string, error) {
	resp, err := begin(l)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return string(body), err
}

// mustGet sends a GET and returns the response, when its connection is back.
func mustGet(t *testing.T, p *Pool) string {
	t.Helper()
	l := mustAcquire(t, p, anything)
	body, err := get(&l)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return body
}

// openMany opens n connections at once, and sends a GET on each.
func openMany(t *testing.T, p *Pool, n int) {
	t.Helper()
	var leases []Lease
	for range n {
		leases = append(leases, mustAcquire(t, p, Need{Freshness: Fresh}))
	}
	for _, l := range leases {
		if _, err := get(&l); err != nil {
			t.Fatal(err)
		}
	}
}

// A peer is an HTTP/2 connection as its server sees it, frame by frame. It must go
// on reading, or its client cannot write.
type peer struct {
	mu sync.Mutex // of what is written
	f  *http2.Framer
}

func (p *peer) write(f func(*http2.Framer) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = f(p.f)
}

func (p *peer) allow(streams uint32) {
	p.write(func(f *http2.Framer) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: streams})
	})
}

func (p *peer) goAway(last uint32) {
	p.write(func(f *http2.Framer) error { return f.WriteGoAway(last, http2.ErrCodeNo, nil) })
}

// frames serves HTTP/2 by prior knowledge.
func frames(handle func(n int64, f *peer), settings ...http2.Setting) func(int64, net.Conn) {
	return func(n int64, c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		w := &queued{c: c, queue: make(chan []byte, 100)}
		defer close(w.queue)
		go w.run()
		f := http2.NewFramer(w, c)
		_ = f.WriteSettings(settings...)
		handle(n, &peer{f: f})
	}
}

// queued writes without waiting until the peer reads, as a pipe does: two HTTP/2
// peers that do would wait for each other.
type queued struct {
	c     net.Conn
	queue chan []byte
}

func (q *queued) Write(p []byte) (int, error) { q.queue <- bytes.Clone(p); return len(p), nil }

func (q *queued) run() {
	for b := range q.queue {
		_, _ = q.c.Write(b)
	}
}

// nextRequest returns the next request's stream, or 0 at the end.
func nextRequest(p *peer) uint32 {
	for {
		fr, err := p.f.ReadFrame()
		if err != nil {
			return 0
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				p.write((*http2.Framer).WriteSettingsAck)
			}
		case *http2.PingFrame:
			if !fr.IsAck() {
				p.write(func(f *http2.Framer) error { return f.WritePing(true, fr.Data) })
			}
		case *http2.HeadersFrame:
			return fr.StreamID
		}
	}
}

// respond answers a stream.
func respond(p *peer, stream uint32, body string) {
	var b strings.Builder
	_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	p.write(func(f *http2.Framer) error {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte(b.String()), EndHeaders: true})
		return f.WriteData(stream, true, []byte(body))
	})
}
