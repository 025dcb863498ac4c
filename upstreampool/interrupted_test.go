package upstreampool

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// Checklist: P22.
func TestClientCancel(t *testing.T) {
	release := make(chan struct{})
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := fake.ReadRequest(r)
			if req == nil {
				return
			}
			switch req.Header.Get("Step") {
			case "header":
				<-release
			case "body":
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
				<-release
				io.WriteString(c, "WRONG!")
			default:
				fake.Respond(c, "right")
			}
		}
	})
	tr := newTransport(t, known)
	for _, step := range []string{"header", "body"} {
		ctx, cancel := context.WithCancel(t.Context())
		req := requestTo(t, ctx, "GET", "tcp", s.addr(), nil)
		req.Header.Set("Step", step)
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, _, err := send(tr, req); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error = %v", step, err)
		}
	}
	close(release)
	for range 5 {
		if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "right" {
			t.Errorf("answered %q", got)
		}
	}
	p := onlyPool(t, tr)
	if st := p.snapshot(); len(st.Replays) != 0 || st.Races != 0 {
		t.Errorf("cancelled requests were replayed or took for races: %+v", st)
	}
	eventually(t, "all reservations are gone", func() bool { return p.snapshot().Connections["busy"] == 0 })
}

func TestRequestBodyError(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	broken := errors.New("client broke off")
	body := &countingBody{Reader: io.MultiReader(strings.NewReader("abc"), errReader{broken})}
	req := newRequest(t, "PUT", s.addr(), body)
	req.ContentLength = 10
	_, _, err := send(tr, req)
	if !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
	if body.closes() != 1 {
		t.Errorf("the body was closed %d times", body.closes())
	}
	if tr.core.upstreams.get(tr.mustTarget(t, s.addr()).upstream()).H1.Limit(time.Now(), idletime.Optional{}).Raised {
		t.Error("a broken request was taken for a race")
	}
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2: a broken request was replayed", n)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// A request that net/http refuses leaves its connection usable.
func TestInvalidRequestLeavesTheConnection(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.MaxConnsPerHost = 1 })
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	for range 3 {
		req := newRequest(t, "GET", s.addr(), nil)
		req.Header["Bad Name"] = []string{"x"}
		if _, _, err := send(tr, req); err == nil {
			t.Fatal("no error")
		}
	}
	if got := mustSend(t, tr, newRequest(t, "GET", s.addr(), nil)); got != "1" {
		t.Errorf("connection %s", got)
	}
	if st := onlyPool(t, tr).snapshot(); len(st.Replays) != 0 {
		t.Errorf("replays = %v", st.Replays)
	}
}

func TestResponseHeaderTimeout(t *testing.T) {
	change := func(tr *Transport) { known(tr); tr.ResponseHeaderTimeout = caddy.Duration(time.Second) }
	bubble(t, change, func(t *testing.T, tr *Transport, _ *pipeServer) {
		var seen atomic.Int64
		scripted(tr, func(_ int64, c net.Conn, r *bufio.Reader) {
			for i := 0; fake.ReadRequest(r) != nil; i++ {
				seen.Add(1)
				if i == 0 {
					fake.Respond(c, "")
				}
			}
		})
		mustSend(t, tr, get(t))
		_, _, err := send(tr, get(t))
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("error = %v, want a timeout", err)
		}
		if seen.Load() != 2 {
			t.Errorf("a request that timed out was repeated: %d requests", seen.Load())
		}
	})
}

// read_timeout is a timeout of ours: it must not hit a request on a connection
// that has been idle for almost as long, and teaches nothing.
func TestReadTimeout(t *testing.T) {
	t.Parallel()
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			time.Sleep(time.Second)
			fake.Respond(c, strconv.FormatInt(n, 10))
		}
	})
	const timeout = 4 * time.Second
	tr := newTransport(t, func(tr *Transport) { known(tr); tr.ReadTimeout = caddy.Duration(timeout) })
	mustSend(t, tr, newRequest(t, "POST", s.addr(), nil))
	time.Sleep(timeout - time.Second/2) // with the next response more than the timeout
	if got := mustSend(t, tr, newRequest(t, "POST", s.addr(), nil)); got != "1" {
		t.Errorf("connection %s", got)
	}
	time.Sleep(timeout + time.Second/10)
	if st := tr.core.upstreams.get(tr.mustTarget(t, s.addr()).upstream()).H1.Limit(time.Now(), idletime.Optional{}); st.Bound == idletime.BoundEarlyClose {
		t.Errorf("a timeout of ours was taken for the upstream's: %v", st)
	}
}
