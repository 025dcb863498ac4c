package upstreampool

import (
	"bufio"
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// What the log says, and how often.
func TestLog(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	type fields map[string]any
	type line struct {
		level   zapcore.Level
		message string
		fields  fields
	}
	// dies serves one request per connection and closes at the second, unseen.
	dies := func(_ int64, c net.Conn, r *bufio.Reader) {
		if fake.ReadRequest(r) != nil {
			fake.Respond(c, "")
			fake.ReadRequest(r)
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*Transport)
		do     func(t *testing.T, tr *Transport, up *pipeServer)
		want   []line
	}{
		{"a timeout is learned: told once, with what it is and what bounds it", nil,
			func(t *testing.T, tr *Transport, up *pipeServer) {
				up.setIdle(2 * s)
				for range 5 {
					mustSend(t, tr, get(t))
					time.Sleep(3 * s)
				}
			},
			[]line{
				{zap.DebugLevel, "upstream closed idle connection", fields{"upstream": pipeAddr, "idle": 2 * s, "sensor": false}},
				{zap.DebugLevel, "upstream closed idle connection", fields{"upstream": pipeAddr, "idle": 2 * s, "sensor": true}},
				{zap.InfoLevel, "upstream closes idle connections after this time",
					fields{"upstream": pipeAddr, "h2": false, "keep_alive": 2 * s, "max_idle_time": 2 * time.Minute}},
				{zap.DebugLevel, "upstream closed idle connection", fields{"idle": 2 * s, "sensor": true}},
			},
		},
		{"a promise is broken: one warning, which names the promise",
			func(tr *Transport) { tr.UpstreamKeepAlive = caddy.Duration(time.Minute) },
			func(t *testing.T, tr *Transport, up *pipeServer) {
				up.setIdle(5 * s)
				for range 5 {
					mustSend(t, tr, get(t))
					time.Sleep(10 * s)
				}
			},
			[]line{
				{zap.DebugLevel, "upstream closed idle connection", fields{"idle": 5 * s}},
				{zap.DebugLevel, "upstream closed idle connection", fields{"idle": 5 * s}},
				{zap.WarnLevel, "upstream closes idle connections earlier than it should",
					fields{"upstream": pipeAddr, "h2": false, "keep_alive": 5 * s, "promised": time.Minute, "promise": "configured"}},
				{zap.DebugLevel, "upstream closed idle connection", fields{"idle": 5 * s, "sensor": true}},
			},
		},
		{"an upstream that outlives max_idle_time", func(tr *Transport) { tr.MaxIdleTime = caddy.Duration(10 * s) },
			func(t *testing.T, tr *Transport, _ *pipeServer) {
				mustSend(t, tr, get(t))
				time.Sleep(time.Minute)
			},
			[]line{{zap.InfoLevel, "upstream keeps idle connections open at least this long",
				fields{"upstream": pipeAddr, "h2": false, "keep_alive": 10 * s}}},
		},
		{"a request that is replayed", known,
			func(t *testing.T, tr *Transport, _ *pipeServer) {
				scripted(tr, dies)
				mustSend(t, tr, get(t))
				time.Sleep(10 * ms)
				mustSend(t, tr, get(t))
			},
			[]line{{zap.DebugLevel, "replaying request", fields{"upstream": pipeAddr, "method": "GET", "reused": true,
				"idle": 10 * ms, "age": 10 * ms, "reason": "no_response"}}},
		},
		{"a request that must not be", known,
			func(t *testing.T, tr *Transport, _ *pipeServer) {
				scripted(tr, dies)
				mustSend(t, tr, get(t))
				time.Sleep(10 * ms)
				if _, _, err := send(tr, post(t)); err == nil {
					t.Error("no error")
				}
			},
			[]line{{zap.WarnLevel, "request failed on reused connection", fields{"upstream": pipeAddr, "method": "POST", "reused": true,
				"idle": 10 * ms, "age": 10 * ms, "reason": "not replayable"}}},
		},
		{"a replay for which there is no connection", known,
			func(t *testing.T, tr *Transport, up *pipeServer) {
				scripted(tr, dies)
				mustSend(t, tr, get(t))
				up.refuse.Store(true)
				tr.core.h2Transport.DialContext = tr.core.dialer(up.dial)
				if _, _, err := send(tr, get(t)); !errors.Is(err, io.EOF) {
					t.Errorf("error = %v, want that of the first attempt", err)
				}
			},
			[]line{{zap.WarnLevel, "replaying request failed", fields{"upstream": pipeAddr, "method": "GET",
				"reason": "no_response", "error": "refused"}}},
		},
		{"the client goes away: nothing", known,
			func(t *testing.T, tr *Transport, up *pipeServer) {
				mustSend(t, tr, get(t))
				up.setLatency(s)
				ctx, cancel := contextWithTimeout(t, 10*ms)
				defer cancel()
				if _, _, err := send(tr, requestTo(t, ctx, "POST", "tcp", pipeAddr, strings.NewReader("x"))); err == nil {
					t.Error("no error")
				}
				time.Sleep(s)
			},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, tc.change, func(t *testing.T, tr *Transport, up *pipeServer) {
				logged, logs := observer.New(zap.DebugLevel)
				tr.core.users.last.Store(zap.New(logged))
				tc.do(t, tr, up)
				synctest.Wait()
				got := logs.AllUntimed()
				for i, e := range got {
					t.Logf("%s %q %v", e.Level, e.Message, e.ContextMap())
					if i >= len(tc.want) {
						continue
					}
					w := tc.want[i]
					if e.Level != w.level || e.Message != w.message {
						t.Errorf("line %d is not %s %q", i, w.level, w.message)
					}
					for name, want := range w.fields {
						if v := e.ContextMap()[name]; v != want {
							t.Errorf("line %d: %s = %v, want %v", i, name, v, want)
						}
					}
				}
				if len(got) != len(tc.want) {
					t.Errorf("%d lines, want %d", len(got), len(tc.want))
				}
			})
		})
	}
}

// Pools log with the latest configuration that uses them. One that failed to load
// must not leave its logger behind, whose files may be closed; nor must the old
// one after a reload.
func TestLoggerOverReloads(t *testing.T) {
	size := 10<<20 + unique.Add(1)
	load := func() (tr *Transport, logger *zap.Logger, unload func()) {
		tr = &Transport{HTTPTransport: &reverseproxy.HTTPTransport{MaxResponseHeaderSize: size}}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		if err := tr.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		return tr, tr.core.log(), func() {
			if err := tr.Cleanup(); err != nil {
				t.Error(err)
			}
			cancel()
		}
	}
	running, logger, unload := load()
	_, _, failed := load()
	failed()
	if running.core.log() != logger {
		t.Error("the running configuration logs with the logger of one that failed")
	}
	next, logger, unloadNext := load()
	defer unloadNext()
	unload()
	if next.core != running.core || next.core.log() != logger {
		t.Error("the new configuration logs with the logger of the old one")
	}
}

// Waits and refusals are counted, with how long they took.
func TestWaitMetrics(t *testing.T) {
	bubble(t, func(tr *Transport) { tr.MaxConnsPerHost, tr.MaxPending = 1, 2 }, func(t *testing.T, tr *Transport, s *pipeServer) {
		refused := func(reason string) float64 {
			value, _, _ := read(t, collectors.refusals.WithLabelValues(pipeAddr, reason))
			return value
		}
		waits := func() (count uint64, sum float64) {
			_, count, sum = read(t, collectors.wait.WithLabelValues(pipeAddr).(prometheus.Collector))
			return count, sum
		}
		count0, sum0 := waits()
		full0, timeout0 := refused("queue_full"), refused("timeout")

		s.delay.Store(int64(time.Second))
		mustSend(t, tr, get(t)) // waits for its dial
		synctest.Wait()
		mustSend(t, tr, get(t)) // finds a connection, waits for none
		synctest.Wait()
		s.setLatency(10 * time.Second)
		done := make(chan error, 4)
		for range 4 { // one is served, two wait for 5 s, one is too many
			go func() { _, _, err := send(tr, get(t)); done <- err }()
			synctest.Wait()
		}
		for range 4 {
			<-done
		}
		count, sum := waits()
		if count -= count0; count != 3 || math.Abs(sum-sum0-(1+5+5)) > 1e-6 {
			t.Errorf("%d waits of %v s in all, want one of 1 s and two of 5 s", count, sum-sum0)
		}
		if full, timeout := refused("queue_full")-full0, refused("timeout")-timeout0; full != 1 || timeout != 2 {
			t.Errorf("refused for a full queue: %v, want 1; for the timeout: %v, want 2", full, timeout)
		}
	})
}

// read returns the value of a counter, or count and sum of a histogram.
func read(t *testing.T, c prometheus.Collector) (value float64, count uint64, sum float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := families[0].GetMetric()[0]
	return m.GetCounter().GetValue(), m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()
}
