package connpool

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
	"github.com/caddy-connreuse/connreuse/internal/memory"
	"github.com/caddy-connreuse/connreuse/internal/test/netns"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// often is the interval of TCP keep-alive, the shortest there is.
const often = time.Second

// dialOnly returns a pool of connections through n to a server that answers every
// request but those that it is told to keep waiting. Idle connections are probed at an
// interval.
func dialOnly(t *testing.T, n *netns.Network, h2 bool, probes time.Duration, known idletime.Config) *bench {
	t.Helper()
	var l net.Listener
	var err error
	n.Run(func() { l, err = net.Listen("tcp", "127.0.0.1:0") })
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, "ok")
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(l)
	var b *bench
	b = &bench{h2: h2, probes: 100, connect: func() (nc net.Conn, err error) {
		d := net.Dialer{Timeout: 2 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probes, Interval: probes, Count: b.probes}}
		n.Run(func() { nc, err = d.Dial("tcp", l.Addr().String()) })
		return nc, err
	}}
	cfg := Config{
		Idle: known, ProbeInterval: probes,
		Reuse: true, MaxPending: 100, AcquireTimeout: 5 * time.Second,
	}
	b.group = NewGroup(cfg)
	b.known = &memory.Upstream{H1: idletime.NewLearner(cfg.Idle, nil), H2: idletime.NewLearner(cfg.Idle, nil)}
	b.Pool = b.another()
	t.Cleanup(func() {
		b.group.Retire()
		b.Drain()
		_ = srv.Close()
	})
	return b
}

// A request that is given up on a connection idle for half its limit, and of which
// nothing was acknowledged, caps the limit, whether its client gives it up or we do. One
// that the upstream has, though it does not answer, says nothing.
//
// Checklist: P29.
func TestRequestLostInSilence(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		h2, drop bool
		patience time.Duration // unacked_timeout
		reason   CloseReason
	}{
		{"h1", false, true, 0, CloseFailed},
		{"h2", true, true, 0, CloseFailed},
		{"given up by us, h1", false, true, time.Second, CloseUnacked},
		{"given up by us, h2", true, true, time.Second, CloseUnacked},
		{"slow upstream, h1", false, false, 0, ""},
		{"slow upstream, h2", true, false, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := netns.New(t)
			b := dialOnly(t, n, tc.h2, often, idletime.Config{MaxIdle: time.Minute, KeepAlive: 6 * time.Second})
			b.cfg.UnackedTimeout = tc.patience
			openMany(t, b.Pool, 2)
			poll.Until(t, "two idle connections", func() bool { return b.Snapshot().Connections["idle"] == 2 })
			limit := b.known.Learner(tc.h2).Limit(time.Now(), idletime.Optional{})
			time.Sleep(limit.Value * 55 / 100)
			if tc.drop {
				n.Drop()
			}
			l := mustAcquire(t, b.Pool, anything)
			ctx, cancel := context.WithTimeout(t.Context(), 1700*time.Millisecond+5*tc.patience)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://upstream.test/slow", nil)
			if _, err := l.RoundTrip(req); err == nil {
				t.Fatal("there was an answer")
			} else if f := l.Fail(err, tc.patience == 0); f.Lost != tc.drop {
				t.Errorf("lost = %v, want %v", f.Lost, tc.drop)
			}
			got := b.known.Learner(tc.h2).Limit(time.Now(), idletime.Optional{})
			if capped := got.Bound == idletime.BoundSilence && got.Value < l.Idle; capped != tc.drop || got.Source != idletime.SourceConfigured {
				t.Errorf("idle for %v, the limit is %+v then, was %+v", l.Idle, got, limit)
			}
			if tc.drop {
				poll.Until(t, "neither connection is left", func() bool {
					return b.seen.closed(CloseSuspect) == 1 && b.seen.closed(tc.reason) == 1
				})
			} else if b.seen.closed(CloseSuspect) > 0 {
				t.Error("the other connection became suspect")
			}
		})
	}
}

// The path of an upload dies half-way. What was acknowledged of it shows that the idle
// connection was not forgotten: nothing caps the limit.
//
// Checklist: P29.
func TestUploadLostHalfWay(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			t.Parallel()
			n := netns.New(t)
			b := dialOnly(t, n, h2, often, idletime.Config{MaxIdle: time.Minute, KeepAlive: 6 * time.Second})
			openMany(t, b.Pool, 1)
			poll.Until(t, "an idle connection", func() bool { return b.Snapshot().Connections["idle"] == 1 })
			before := b.known.Learner(h2).Limit(time.Now(), idletime.Optional{})
			time.Sleep(before.Value * 55 / 100)
			l := mustAcquire(t, b.Pool, Need{})
			body, w := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				_, _ = w.Write(make([]byte, 10_000))
				poll.Until(t, "it is acknowledged", func() bool {
					info, _ := l.c.net.Info()
					return l.c.net.Sent() && info.Unacked == 0
				})
				n.Drop()
				_, _ = w.Write(make([]byte, 10_000))
				time.Sleep(2500 * time.Millisecond)
				cancel() // the client is gone, and with it its upload
				_ = w.CloseWithError(io.ErrUnexpectedEOF)
			}()
			req, _ := http.NewRequestWithContext(ctx, "POST", "http://upstream.test/slow", body)
			if _, err := l.RoundTrip(req); err == nil {
				t.Fatal("there was an answer")
			} else if f := l.Fail(err, true); !f.Lost {
				t.Errorf("%v: %+v, want it lost", err, f)
			}
			if got := b.known.Learner(h2).Limit(time.Now(), idletime.Optional{}); got.Bound != before.Bound || got.Value < before.Value {
				t.Errorf("idle for %v, the limit is %+v then, was %+v", l.Idle, got, before)
			}
		})
	}
}

// A sensor that outlives max_idle_time shows what the upstream keeps, unless the path
// may have lost it: then its silence shows nothing. The path may also have lost it where
// the upstream has been heard, but so early that it shows nothing of that time.
//
// Checklist: P29.
func TestSensorOnADeadPath(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		drop   bool
		probes time.Duration
		want   idletime.Source
	}{
		{"alive", false, often, idletime.SourceLearned},
		{"dead", true, often, idletime.SourceAssumed},
		{"dead, and no probe is due", true, 15 * time.Second, idletime.SourceAssumed},
		{"nobody knows", false, 15 * time.Second, idletime.SourceAssumed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := netns.New(t)
			b := dialOnly(t, n, false, tc.probes, idletime.Config{MaxIdle: 6 * time.Second})
			l := mustAcquire(t, b.Pool, anything)
			if _, err := get(&l); err != nil {
				t.Fatal(err)
			}
			poll.Until(t, "a sensor", func() bool { return b.Snapshot().Connections["sensor"] == 1 })
			if tc.drop {
				n.Drop()
			}
			poll.Until(t, "the sensor has seen enough", func() bool { return b.seen.closed(CloseSensor) == 1 })
			if got := b.known.H1.Limit(time.Now(), idletime.Optional{}); got.Source != tc.want {
				t.Errorf("the limit is %+v, want it %s", got, tc.want)
			}
		})
	}
}

// An idle connection that the kernel gives up, because nothing answers its probes, was
// not closed by the upstream. It tells nothing of its timeout, but of other connections.
//
// Checklist: P29.
func TestKernelGivesUpIdleConnection(t *testing.T) {
	t.Parallel()
	n := netns.New(t)
	b := dialOnly(t, n, false, often, idletime.Config{MaxIdle: time.Minute, KeepAlive: time.Hour})
	b.probes = 2
	openMany(t, b.Pool, 3)
	poll.Until(t, "three idle connections", func() bool { return b.Snapshot().Connections["idle"] == 3 })
	before := b.known.H1.Limit(time.Now(), idletime.Optional{})
	n.Drop()
	poll.Until(t, "none is left", func() bool { return b.Snapshot().Connections["idle"] == 0 })
	poll.Until(t, "all are told", func() bool { return b.seen.closed(CloseSilent)+b.seen.closed(CloseSuspect) == 3 })
	if b.seen.closed(CloseSilent) == 0 {
		t.Error("none was closed by the kernel")
	}
	time.Sleep(1500 * time.Millisecond) // closes are judged a second later
	if got := b.known.H1.Limit(time.Now(), idletime.Optional{}); got != before {
		t.Errorf("the limit is %+v, was %+v", got, before)
	}
}

// A host that is gone after it has acknowledged a request has not forgotten the idle
// connection: nothing caps the limit.
//
// Checklist: P29.
func TestHostIsGoneWhileItWorks(t *testing.T) {
	t.Parallel()
	n := netns.New(t)
	b := dialOnly(t, n, false, often, idletime.Config{MaxIdle: time.Minute, KeepAlive: 6 * time.Second})
	b.probes = 2
	l := mustAcquire(t, b.Pool, anything)
	if _, err := get(&l); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "an idle connection", func() bool { return b.Snapshot().Connections["idle"] == 1 })
	before := b.known.H1.Limit(time.Now(), idletime.Optional{})
	time.Sleep(before.Value * 55 / 100)
	l = mustAcquire(t, b.Pool, anything)
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://upstream.test/slow", nil)
		_, err := l.RoundTrip(req)
		failed <- err
	}()
	poll.Until(t, "the request is acknowledged", func() bool {
		info, _ := l.c.net.Info()
		return l.c.net.Sent() && info.Unacked == 0
	})
	n.Drop()
	err := <-failed
	if f := l.Fail(err, false); f.Silent != CloseSilent || f.Lost {
		t.Errorf("%v: %+v", err, f)
	}
	poll.Until(t, "it is told why", func() bool { return b.seen.closed(CloseSilent) == 1 })
	if got := b.known.H1.Limit(time.Now(), idletime.Optional{}); got.Bound != before.Bound || got.Value < before.Value {
		t.Errorf("idle for %v, the limit is %+v then, was %+v", l.Idle, got, before)
	}
}

// A connection whose probe is unanswered is not handed out, and does not stay idle.
//
// Checklist: P29.
func TestDeafConnectionIsNotHandedOut(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"h1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			n := netns.New(t)
			b := dialOnly(t, n, protocol == "h2", often, idletime.Config{MaxIdle: time.Minute, KeepAlive: time.Hour})
			l := mustAcquire(t, b.Pool, anything)
			if _, err := get(&l); err != nil {
				t.Fatal(err)
			}
			n.Drop()
			time.Sleep(2500 * time.Millisecond)                               // a probe is due after a second, the next after another
			if l, err := acquire(t.Context(), b.Pool, anything); err == nil { // and no other can be dialed
				t.Error("it was handed out")
				l.Unused()
			}
			poll.Until(t, "the other one is closed", func() bool { return b.seen.closed(CloseSuspect) == 1 })
		})
	}
}
