package upstreampool

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/prometheus/client_golang/prometheus"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) int { return testcaddy.FreePort(t) }

// runCaddy runs, or reloads, a Caddy with one reverse_proxy. Extra goes into
// the handler, transport into the transport.
func runCaddy(t *testing.T, port int, transport, extra string, upstreams ...string) string {
	t.Helper()
	var dials []string
	for _, u := range upstreams {
		dials = append(dials, fmt.Sprintf(`{"dial":%q}`, u))
	}
	config := fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"storage":{"module":"file_system","root":%q},
		"logging":{"logs":{"default":{"level":"PANIC"}}},
		"apps":{"tls":{"disable_storage_clean":true},"http":{"grace_period":"5s","servers":{"s":{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},
			"protocols":["h1","h2c"],
			"routes":[{"handle":[{"handler":"reverse_proxy","transport":{"protocol":"upstreampool"%s},"upstreams":[%s]%s}]}]}}}}}`,
		storageOf(t), port, transport, strings.Join(dials, ","), extra)
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Run(&cfg); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("http://127.0.0.1:%d/", port)
}

var storages sync.Map

// storageOf returns a folder of a test, the same one each time.
func storageOf(t *testing.T) string {
	folder, ok := storages.Load(t)
	if !ok {
		folder, _ = storages.LoadOrStore(t, t.TempDir())
	}
	return folder.(string)
}

// client returns a client that keeps no connection, HTTP/1 or h2c.
func client(t *testing.T, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func fetch(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// stopCaddy has Caddy stopped after the test, before its folders are removed.
func stopCaddy(t *testing.T) {
	storageOf(t)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// Checklist: P11.
func TestHopByHopFields(t *testing.T) {
	got := make(chan http.Header, 1)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := fake.ReadRequest(r)
			if req == nil {
				return
			}
			got <- req.Header
			fake.Respond(c, "ok", "Connection: keep-alive, X-Hop-Down", "Keep-Alive: timeout=5", "X-Hop-Down: 1", "X-End-Down: 1",
				"Te: trailers", "Upgrade: foo", "Proxy-Connection: keep-alive")
		}
	})
	stopCaddy(t)
	url := runCaddy(t, freePort(t), `,"max_requests":100`, "", s.addr())
	for _, h2 := range []bool{false, true} {
		for range 2 { // a fresh connection, which asks for the timeout, and a reused one
			req, _ := http.NewRequest("GET", url, nil)
			req.Header.Set("X-End-Up", "1")
			if !h2 {
				req.Header.Set("Connection", "X-Hop-Up, Keep-Alive")
				req.Header.Set("X-Hop-Up", "1")
				req.Header.Set("Keep-Alive", "timeout=100")
				req.Header.Set("Proxy-Connection", "keep-alive")
				req.Header.Set("Te", "gzip")
			}
			resp, _ := fetch(t, client(t, h2), req)
			up := <-got
			if c := up.Get("Connection"); c != "" && c != "keep-alive" {
				t.Errorf("up: Connection: %q", c)
			}
			for _, name := range []string{"X-Hop-Up", "Keep-Alive", "Te", "Upgrade", "Proxy-Connection"} {
				if v, ok := up[name]; ok {
					t.Errorf("h2=%v up: %s: %q", h2, name, v)
				}
			}
			for _, name := range []string{"Connection", "X-Hop-Down", "Keep-Alive", "Te", "Upgrade", "Proxy-Connection"} {
				if v, ok := resp.Header[name]; ok {
					t.Errorf("h2=%v down: %s: %q", h2, name, v)
				}
			}
			if up.Get("X-End-Up") != "1" || resp.Header.Get("X-End-Down") != "1" {
				t.Error("an end-to-end field was removed")
			}
		}
	}
}

// A WebSocket goes through Caddy and back.
//
// Checklist: P21.
func TestWebSocketThroughCaddy(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		if fake.ReadRequest(r) == nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, r)
	})
	stopCaddy(t)
	port := freePort(t)
	runCaddy(t, port, `,"max_requests":101`, "", s.addr())
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	io.WriteString(c, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "ping" {
		t.Errorf("echo = %q, %v", buf, err)
	}
}

// A refused wait and a failed dial are retried at another upstream; a POST that
// may have been seen is not.
func TestRetriesElsewhere(t *testing.T) {
	var slowSeen, fastSeen atomic.Int64
	release := make(chan struct{})
	released := sync.OnceFunc(func() { close(release) })
	slow := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			slowSeen.Add(1)
			<-release
			fake.Respond(c, "slow")
		}
	})
	fast := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			fastSeen.Add(1)
			fake.Respond(c, "fast")
		}
	})
	t.Cleanup(released)
	stopCaddy(t)
	const transport = `,"max_conns_per_host":1,"max_pending":1,"acquire_timeout":"50ms"`
	url := runCaddy(t, freePort(t), transport, `,"load_balancing":{"try_duration":"10s","try_interval":"5ms","selection_policy":{"policy":"round_robin"}}`, slow.addr(), fast.addr())
	cl := client(t, false)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			req, _ := http.NewRequest("POST", url, strings.NewReader("body"))
			resp, body := fetch(t, cl, req)
			if resp.StatusCode != 200 || body != "slow" && body != "fast" {
				t.Errorf("status %d, body %q", resp.StatusCode, body)
			}
		})
	}
	eventually(t, "all but one are answered by the other upstream", func() bool { return fastSeen.Load() >= 19 })
	released()
	wg.Wait()
	if n := slowSeen.Load() + fastSeen.Load(); n != 20 {
		t.Errorf("20 POSTs were seen %d times", n)
	}
}

func TestFullPoolIs503(t *testing.T) {
	arrived, release := make(chan bool, 1), make(chan struct{})
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for fake.ReadRequest(r) != nil {
			arrived <- true
			<-release
			fake.Respond(c, "ok")
		}
	})
	stopCaddy(t)
	url := runCaddy(t, freePort(t), `,"max_conns_per_host":1,"acquire_timeout":"1s"`, "", s.addr())
	cl := client(t, false)
	var wg sync.WaitGroup
	wg.Go(func() {
		req, _ := http.NewRequest("GET", url, nil)
		fetch(t, cl, req)
	})
	<-arrived
	req, _ := http.NewRequest("GET", url, nil)
	if resp, _ := fetch(t, cl, req); resp.StatusCode != 503 {
		t.Errorf("status %d, want 503", resp.StatusCode)
	}
	close(release)
	wg.Wait()
}

// An unchanged transport keeps its pools over a reload, whatever else changes;
// a changed one drains: requests under way finish, idle connections close.
func TestReload(t *testing.T) {
	hang := make(chan struct{})
	arrived := make(chan bool, 1)
	s := serveRaw(t, func(n int64, c net.Conn, r *bufio.Reader) {
		for {
			req := fake.ReadRequest(r)
			if req == nil {
				return
			}
			if req.URL.Path == "/hang" {
				arrived <- true
				<-hang
			}
			fake.Respond(c, strconv.FormatInt(n, 10))
		}
	})
	stopCaddy(t)
	port := freePort(t)
	const same = `,"max_requests":102`
	url := runCaddy(t, port, same, "", s.addr())
	cl := client(t, false)
	get := func(path string) string {
		// The server that stops may still accept a connection, and then hangs up.
		for {
			resp, err := cl.Get(url + path)
			if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
				continue
			}
			if err != nil {
				t.Error(err)
				return ""
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Error(err)
			}
			return string(body)
		}
	}
	if got := get(""); got != "1" {
		t.Fatalf("connection %s", got)
	}
	for i := range 3 {
		runCaddy(t, port, same, fmt.Sprintf(`,"flush_interval":%d`, i+1), s.addr())
		cl.CloseIdleConnections()
		if got := get(""); got != "1" {
			t.Errorf("connection %s after a reload that does not change the transport", got)
		}
	}
	if n := len(cores()); n != 1 {
		t.Errorf("%d cores", n)
	}
	// In-flight over the change.
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := get("hang"); got != "1" {
			t.Errorf("the request under way was answered by connection %s", got)
		}
	})
	<-arrived
	old := cores()[0]
	done := make(chan bool)
	go func() {
		runCaddy(t, port, `,"max_requests":103`, "", s.addr())
		close(done)
	}()
	eventually(t, "the old pools drain", func() bool { return len(old.all()) > 0 && old.all()[0].snapshot().Connections["idle"] == 0 })
	close(hang)
	wg.Wait()
	<-done
	eventually(t, "the old pools are empty", func() bool { return len(old.all()) == 0 })
	cl.CloseIdleConnections()
	if got := get(""); got != "2" {
		t.Errorf("connection %s after the transport changed, want a new one", got)
	}
}

// only registers what a metric comes from: of many upstreams all metrics are a lot.
type only struct {
	prometheus.Registerer
	metric string
}

func (o only) Register(c prometheus.Collector) error {
	descriptions := make(chan *prometheus.Desc)
	go func() { c.Describe(descriptions); close(descriptions) }()
	found := false
	for d := range descriptions {
		found = found || strings.Contains(d.String(), strconv.Quote(o.metric))
	}
	if !found {
		return nil
	}
	return o.Registerer.Register(c)
}

// metric returns the value of the first counter or gauge that has these labels.
func metric(t testing.TB, name string, labels map[string]string) (float64, bool) {
	t.Helper()
	reg := prometheus.NewRegistry()
	for range 2 { // each handler of a config does it
		if err := registerMetrics(only{reg, name}); err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if want, ok := labels[l.GetName()]; ok && l.GetValue() != want {
					continue next
				}
			}
			if m.GetCounter() != nil {
				return m.GetCounter().GetValue(), true
			}
			if m.GetHistogram() != nil {
				return float64(m.GetHistogram().GetSampleCount()), true
			}
			return m.GetGauge().GetValue(), true
		}
	}
	return 0, false
}

// Metrics are registered with every configuration, count on over reloads, and
// have no label that a client can choose without bound.
func TestMetrics(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, known)
	for range 3 {
		mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	}
	name := s.addr()
	for _, tc := range []struct {
		metric string
		labels map[string]string
		want   float64
	}{
		{"caddy_upstreampool_connections_opened_total", map[string]string{"upstream": name}, 1},
		{"caddy_upstreampool_requests_total", map[string]string{"upstream": name, "connection": "new"}, 1},
		{"caddy_upstreampool_requests_total", map[string]string{"upstream": name, "connection": "reused"}, 2},
		{"caddy_upstreampool_refusals_total", map[string]string{"upstream": name, "reason": "queue_full"}, 0},
		{"caddy_upstreampool_refusals_total", map[string]string{"upstream": name, "reason": "timeout"}, 0},
		{"caddy_upstreampool_connections", map[string]string{"upstream": name, "state": "idle"}, 1},
		{"caddy_upstreampool_connections", map[string]string{"upstream": name, "state": "busy"}, 0},
		{"caddy_upstreampool_waiting_requests", map[string]string{"upstream": name}, 0},
		{"caddy_upstreampool_idle_limit_seconds", map[string]string{"upstream": name, "source": "configured"}, 120},
		{"caddy_upstreampool_keep_alive_seconds", map[string]string{"upstream": name, "source": "configured"}, 3600},
	} {
		eventually(t, fmt.Sprint(tc), func() bool { v, ok := metric(t, tc.metric, tc.labels); return ok && v == tc.want })
	}
	if states := States(); len(states) == 0 {
		t.Error("no states")
	}
}

// Clients can choose what a label says where the dial address has placeholders.
// Prometheus panics at what is no UTF-8, which cut the client off.
func TestMetricsOfAnUpstreamThatIsNoUTF8(t *testing.T) {
	tr := newTransport(t, nil)
	const addr = "\xff.invalid:80"
	if _, _, err := send(tr, newRequest(t, "GET", addr, nil)); err == nil {
		t.Error("no error")
	}
	label := map[string]string{"upstream": "\uFFFD.invalid:80", "reason": "timeout"}
	if _, ok := metric(t, "caddy_upstreampool_refusals_total", label); !ok {
		t.Errorf("no metric has the labels %q", label)
	}
}

// HTTP/3 upstreams are left to the embedded transport.
func TestHTTP3IsDelegated(t *testing.T) {
	tr := newTransport(t, func(tr *Transport) {
		tr.TLS, tr.Versions = &reverseproxy.TLSConfig{InsecureSkipVerify: true, ServerName: "example.com"}, []string{"3"}
	})
	if !tr.h3 || tr.core != nil {
		t.Fatal("not delegated")
	}
	ctx, cancel := contextWithTimeout(t, 20*time.Second)
	defer cancel()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int, 1)
	go func() {
		n, _, _ := l.ReadFrom(make([]byte, 2000))
		got <- n
		cancel()
	}()
	send(tr, requestTo(t, ctx, "GET", "udp", l.LocalAddr().String(), nil))
	if n := <-got; n < 1200 {
		t.Errorf("%d bytes arrived, want a QUIC Initial packet", n)
	}
}

// The settings that make the pool ours.
func TestTransportSettings(t *testing.T) {
	tr := newTransport(t, func(tr *Transport) { tr.MaxConnsPerHost = 5 })
	for name, h := range map[string]*http.Transport{"h2": tr.core.h2Transport, "h1": tr.core.h1Transport} {
		if h.MaxConnsPerHost != 0 || h.IdleConnTimeout != 0 {
			t.Errorf("%s: MaxConnsPerHost %d, IdleConnTimeout %v; net/http must not interfere", name, h.MaxConnsPerHost, h.IdleConnTimeout)
		}
	}
	cfg := tr.core.cfg
	if cfg.MaxConns != 5 || cfg.MaxIdlePerPool != 1024 || cfg.MaxPending != 1000 || cfg.AcquireTimeout != 5*time.Second ||
		cfg.Idle.MaxIdle != 2*time.Minute || cfg.handshake != 10*time.Second || cfg.dialTimeout != 3*time.Second {
		t.Errorf("defaults = %+v", cfg)
	}
}
