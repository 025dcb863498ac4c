package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	h2peer "github.com/caddy-connreuse/connreuse/internal/test/h2"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// TestSoak mixes everything for a while: clients of HTTP/1.1, 2 and 3, upstreams
// of HTTP/1.1, h2 and h2c, small and large requests, ones that are given up,
// upgrades, reloads that change the transport or do not, and replace a certificate,
// upstreams that restart, and hostile clients. Every failure is explained by the
// log, nothing is left behind, memory included, and under -race (Caddy is built
// with it then) there is no race.
//
// CONNREUSE_SOAK is for how long, 15s by default. With minutes, go test needs a
// -timeout, too.
func TestSoak(t *testing.T) {
	needs.Long(t)
	duration := 15 * time.Second
	if text := os.Getenv("CONNREUSE_SOAK"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("parsing CONNREUSE_SOAK '%s': %v", text, err)
		}
	}
	var servers []*soakServer
	var sites strings.Builder
	var names []string
	for _, scheme := range []string{"http", "https", "h2c"} {
		s := newSoakServer(t, scheme)
		servers = append(servers, s)
		names = append(names, s.host)
		fmt.Fprintf(&sites, `
%s {
	misdirected
	reverse_proxy %s://%s {
		transport upstreampool {
			max_idle_time 100s
			%s
		}
	}
}
`, s.host, scheme, s.addr, map[string]string{"https": "tls_insecure_skip_verify"}[scheme])
	}
	replaced := newReplacedCertificate(t)
	fmt.Fprintf(&sites, "reload.test {\n\trespond \"reload 000\"\n}\n%s {\n\ttls %s %s\n\tmisdirected\n\trespond ok\n}\n", replaced.name, replaced.cert, replaced.key)
	// The Go runtime may keep a stopped timer, and what it refers to, until it would
	// have fired. Caddy's idle timeout is 5 minutes by default, and refers to a
	// connection and so to the configuration that it came with.
	c := startCaddy(t, "servers {\n\tstrict_sni_host insecure_off\n\ttimeouts {\n\t\tidle 10s\n\t}\n\tlistener_wrappers {\n\t\torigin\n\t}\n}", sites.String(), names)
	config := c.get("/config/")
	if !strings.Contains(config, "reload 000") || strings.Count(config, `"max_idle_time":100000000000`) != len(servers) {
		t.Fatalf("the config is not what the test takes it for: %s", config)
	}

	s := &soak{t: t, addr: c.addr}
	newClients := func() (clients []*soakClient) {
		for _, protocol := range protocols {
			for _, host := range names {
				clients = append(clients, s.client(protocol, host))
			}
		}
		return clients
	}
	closeAll := func(clients []*soakClient) {
		for _, client := range clients {
			client.close()
		}
		poll.Succeed(c.t, "the pools to be empty", func() error {
			for _, server := range servers {
				if pool := c.samples("connections", server.addr); len(pool) > 0 {
					return fmt.Errorf("%v", pool)
				}
			}
			return nil
		})
	}
	clients := newClients()
	for _, client := range clients { // all code has run once
		client.each()
	}
	for range 20 {
		s.hostile()
	}
	closeAll(clients)
	before := c.resources()

	clients = newClients()
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var all sync.WaitGroup
	for _, client := range clients {
		all.Go(func() {
			for ctx.Err() == nil {
				client.random()
				time.Sleep(5 * time.Millisecond) // leaves some of the machine to others
			}
		})
	}
	every := func(period time.Duration, f func(i int)) {
		all.Go(func() {
			tick := time.NewTicker(period)
			defer tick.Stop()
			for i := 1; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					f(i)
				}
			}
		})
	}
	every(20*time.Millisecond, func(int) { s.hostile() })
	reloads, restarts := 0, 0
	every(2*time.Second, func(i int) {
		serial := replaced.replace(t)
		// Odd ones leave the transport as it is.
		changed := strings.ReplaceAll(config, "reload 000", fmt.Sprintf("reload %03d", i))
		changed = strings.ReplaceAll(changed, `"max_idle_time":100000000000`, fmt.Sprintf(`"max_idle_time":%d`, 100_000_000_000+i/2))
		from := time.Now()
		if err := c.load([]byte(changed)); err != nil {
			t.Error(err)
		}
		s.disturbed(from)
		reloads++
		// A handshake may still be of the config before.
		poll.Succeed(c.t, "the certificate that replaces the other", func() error {
			conn, err := tls.Dial("tcp", c.addr, clientTLS(replaced.name))
			if err != nil {
				return err
			}
			defer conn.Close()
			if got := conn.ConnectionState().PeerCertificates[0].SerialNumber; got.Cmp(serial) != 0 {
				return fmt.Errorf("serial number %v, want %v", got, serial)
			}
			return nil
		})
	})
	every(1500*time.Millisecond, func(i int) {
		from := time.Now()
		if err := servers[i%len(servers)].restart(i%2 == 0); err != nil {
			t.Error(err)
		}
		s.disturbed(from)
		restarts++
	})
	all.Wait()
	closeAll(clients)
	s.explain(c)
	t.Logf("%v, %d reloads, %d restarts", duration, reloads, restarts)

	// What is left is what there was, once the older configurations are gone.
	var after resources
	deadline := time.Now().Add(2 * time.Minute)
	for after = c.resources(); after.above(before) && time.Now().Before(deadline); after = c.resources() {
		time.Sleep(200 * time.Millisecond) // polls another process
	}
	t.Logf("before: %v; after: %v", before, after)
	if after.above(before) {
		t.Errorf("something was left behind: %v, before it was %v\n%s", after, before, c.get("/debug/pprof/goroutine?debug=1"))
	}
	if c.log.contains("panic") {
		t.Error("Caddy had a panic")
	}
}

// resources are what a process must not have ever more of.
type resources struct{ goroutines, descriptors, heap int }

func (r resources) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap %.1f MB", r.goroutines, r.descriptors, float64(r.heap)/1e6)
}

func (r resources) above(before resources) bool {
	return r.goroutines > before.goroutines+10 || r.descriptors > before.descriptors+10 || r.heap > before.heap+8e6
}

func (c *caddy) resources() resources {
	c.t.Helper()
	total := regexp.MustCompile(`total (\d+)`).FindStringSubmatch(c.get("/debug/pprof/goroutine?debug=1"))
	goroutines, err := strconv.Atoi(total[1])
	if err != nil {
		c.t.Fatal(err)
	}
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	c.get("/debug/pprof/heap?gc=1&debug=1") // collects garbage
	heap := regexp.MustCompile(`(?m)^go_memstats_heap_alloc_bytes (\S+)$`).FindStringSubmatch(c.get("/metrics"))
	bytes, err := strconv.ParseFloat(heap[1], 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return resources{goroutines, len(descriptors), int(bytes)}
}

// A soak collects what its clients saw.
type soak struct {
	t    *testing.T
	addr string

	mu       sync.Mutex
	number   int
	results  []result
	disturbs []interval // reloads and restarts
	streams  int        // upgraded
	cut      []interval // the ones that ended too early
}

// disturbed notes a reload or restart. Its effects on connections of clients
// last longer: a server that shuts down closes them as they become idle.
func (s *soak) disturbed(from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disturbs = append(s.disturbs, interval{from, time.Now().Add(time.Second)})
}

// target makes the target of the next request, which no other has.
func (s *soak) target(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	return fmt.Sprintf("%s?%d", path, s.number)
}

func (s *soak) add(r result) {
	r.to = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, r)
}

// explain finds the cause of each failure: a line of the log, or that a reload
// closed the client's own connection. Nothing else is one.
func (s *soak) explain(c *caddy) {
	log := c.requestLog()
	causes := make(map[string]int)
	byStatus, failed := make(map[int]int), 0
	for _, r := range s.results {
		byStatus[r.status]++
		if r.err == nil && r.status < 500 {
			continue
		}
		failed++
		switch failures := log[r.target].failures; {
		case len(failures) > 0:
			causes["logged: "+addresses.ReplaceAllString(failures[0], "ADDR")]++
		case r.err != nil && slices.ContainsFunc(s.disturbs, r.overlaps):
			causes["connection of the client: "+addresses.ReplaceAllString(r.err.Error(), "ADDR")]++
		default:
			s.t.Errorf("%s %s: %d, %v: no line in the log says why", r.method, r.target, r.status, r.err)
		}
	}
	s.t.Logf("%d requests, by status: %v; %d upgraded streams, %d of them cut", len(s.results), byStatus, s.streams, len(s.cut))
	for _, stream := range s.cut {
		if !slices.ContainsFunc(s.disturbs, stream.overlaps) {
			s.t.Errorf("an upgraded stream was cut with nothing going on")
		}
	}
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		s.t.Logf("%5d failed: %s", causes[cause], cause)
	}
	if byStatus[200] < failed {
		s.t.Errorf("%d requests succeeded, %d failed, want most to succeed", byStatus[200], failed)
	}
}

// A soakClient asks for one host over one protocol.
type soakClient struct {
	*soak
	protocol, host string
	http           http.RoundTripper
	close          func()
}

func (s *soak) client(protocol, host string) *soakClient {
	c := &soakClient{soak: s, protocol: protocol, host: host}
	if protocol == "h3" {
		transport := &http3.Transport{
			TLSClientConfig: clientTLS(host),
			Dial: func(ctx context.Context, _ string, config *tls.Config, quicConfig *quic.Config) (*quic.Conn, error) {
				// A request that is given up must not take the connection with it.
				return quic.DialAddrEarly(context.WithoutCancel(ctx), s.addr, config, quicConfig)
			},
		}
		c.http, c.close = transport, func() { _ = transport.Close() }
		return c
	}
	transport := &http.Transport{
		TLSClientConfig: clientTLS(host),
		Protocols:       new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
		},
	}
	transport.Protocols.SetHTTP1(protocol == "h1")
	transport.Protocols.SetHTTP2(protocol == "h2")
	c.http, c.close = transport, transport.CloseIdleConnections
	return c
}

// each does everything once, random one thing.
func (c *soakClient) each() {
	for what := range 8 {
		c.do(what)
	}
}

func (c *soakClient) random() { c.do(rand.IntN(8)) }

func (c *soakClient) do(what int) {
	switch what {
	case 0, 1:
		c.ask("GET", "/", nil, 0)
	case 2:
		c.ask("POST", "/", strings.NewReader("a body"), 0)
	case 3:
		c.ask("PUT", "/", bytes.NewReader(make([]byte, 100<<10)), 0)
	case 4: // of unknown length
		c.ask("POST", "/", io.LimitReader(zeros{}, 1<<20), 0)
	case 5:
		c.ask("GET", "/slow", nil, 30*time.Millisecond)
	case 6:
		c.ask("POST", "/", io.LimitReader(zeros{}, 1<<30), 30*time.Millisecond)
	case 7:
		if c.protocol == "h1" {
			c.upgrade()
		} else {
			c.ask("GET", "/slow", nil, 0)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// ask makes a request, and gives it up after some time if that is not zero.
func (c *soakClient) ask(method, path string, body io.Reader, giveUp time.Duration) {
	r := result{method: method, target: c.target(path)}
	r.from = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if giveUp > 0 {
		ctx, cancel = context.WithTimeout(ctx, giveUp)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.host+r.target, body)
	if err != nil {
		c.t.Error(err)
		return
	}
	resp, err := c.http.RoundTrip(req)
	if r.err = err; err == nil {
		_, r.err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		r.status = resp.StatusCode
	}
	if giveUp > 0 && time.Since(r.from) >= giveUp {
		r.status, r.err = 0, nil
	}
	c.add(r)
}

// upgrade changes to another protocol, which says everything again.
func (c *soakClient) upgrade() {
	r := result{method: "GET", target: c.target("/upgrade")}
	r.from = time.Now()
	var stream net.Conn
	stream, r.err = tls.Dial("tcp", c.addr, clientTLS(c.host, "http/1.1"))
	if r.err != nil {
		c.add(r)
		return
	}
	defer stream.Close()
	_ = stream.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(stream, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", r.target, c.host)
	reader := bufio.NewReader(stream)
	resp, err := http.ReadResponse(reader, nil)
	if r.err = err; err == nil {
		r.status = resp.StatusCode
	}
	c.add(r)
	if r.status != http.StatusSwitchingProtocols {
		return
	}
	from := time.Now()
	for range 5 {
		said, heard := []byte("something to say"), make([]byte, 16)
		if _, err = stream.Write(said); err == nil {
			_, err = io.ReadFull(reader, heard)
		}
		if err != nil {
			break
		}
		if !bytes.Equal(said, heard) {
			c.t.Errorf("upgraded stream: %q came back as %q", said, heard)
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams++
	if err != nil {
		c.cut = append(c.cut, interval{from, time.Now()})
	}
}

// hostile does one thing that no client should.
func (s *soak) hostile() {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	what := rand.IntN(6)
	if what == 0 { // no TLS
		_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	if what == 1 { // half of a handshake
		_, _ = conn.Write([]byte("\x16\x03\x01\x02\x00\x01\x00"))
		return
	}
	config := clientTLS("http.soak.test", "h2")
	if what == 2 { // a name that nobody has
		config = clientTLS(fmt.Sprintf("<b>%d</b>.soak.test", rand.IntN(1<<30)), "h2")
	}
	client := tls.Client(conn, config)
	if client.Handshake() != nil {
		return
	}
	switch what {
	case 3: // the wrong protocol
		_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: http.soak.test\r\n\r\n")
		_, _ = io.Copy(io.Discard, client)
		return
	case 4: // goes away after the preface
		_, _ = io.WriteString(client, http2.ClientPreface)
		return
	}
	// Requests for a host that is not for this connection, each reset at once.
	peer, err := h2peer.Client(client)
	for stream := uint32(1); stream < 100 && err == nil; stream += 2 {
		if err = peer.Get(stream, fmt.Sprintf("%d.soak.test", rand.IntN(1<<30))); err == nil {
			err = peer.WriteRSTStream(stream, http2.ErrCodeCancel)
		}
	}
}

// A replacedCertificate is one in files, for a site that is not proxied.
type replacedCertificate struct{ name, cert, key string }

func newReplacedCertificate(t *testing.T) *replacedCertificate {
	dir := t.TempDir()
	r := &replacedCertificate{"replaced.soak.test", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	r.replace(t)
	return r
}

// replace writes a new certificate and returns its serial number.
func (r *replacedCertificate) replace(t *testing.T) *big.Int {
	cert, err := testcert.SelfSigned(r.name)
	if err == nil {
		err = testcert.WritePEM(cert, r.cert, r.key)
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	return cert.Leaf.SerialNumber
}

// A soakServer is an upstream that keeps its address over restarts.
type soakServer struct {
	scheme, host, addr string
	cert               tls.Certificate
	server             *http.Server
}

func newSoakServer(t *testing.T, scheme string) *soakServer {
	t.Helper()
	cert, err := testcert.SelfSigned("localhost")
	if err != nil {
		t.Fatal(err)
	}
	s := &soakServer{scheme: scheme, host: scheme + ".soak.test", addr: "127.0.0.1:" + freePort(t), cert: cert}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.server.Close() })
	return s
}

func (s *soakServer) start() error {
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.server = &http.Server{Handler: http.HandlerFunc(soakAnswer), IdleTimeout: time.Second, Protocols: new(http.Protocols)}
	s.server.Protocols.SetHTTP1(true) // for upgrades
	s.server.Protocols.SetHTTP2(s.scheme == "https")
	s.server.Protocols.SetUnencryptedHTTP2(s.scheme == "h2c")
	s.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{s.cert}}
	serve := s.server.Serve
	if s.scheme == "https" {
		serve = func(ln net.Listener) error { return s.server.ServeTLS(ln, "", "") }
	}
	go func() { _ = serve(ln) }()
	return nil
}

func (s *soakServer) restart(graceful bool) error {
	if !graceful {
		if err := s.server.Close(); err != nil {
			return err
		}
		return s.start()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_ = s.server.Close()
	return s.start()
}

func soakAnswer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/slow":
		select {
		case <-time.After(60 * time.Millisecond):
		case <-r.Context().Done():
		}
	case "/upgrade":
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotImplemented)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
		return
	}
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "%d bytes\n", n)
}
