package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// An upstream is a server, of a kind, that Caddy proxies one host to.
type upstream struct {
	servers.Kind
	addr string
	host string
}

// newUpstream chooses an address.
func newUpstream(t testing.TB, kind servers.Kind) upstream {
	return upstream{kind, "127.0.0.1:" + freePort(t), strings.ReplaceAll(strings.ToLower(kind.Name), " ", "-") + ".test"}
}

// start starts the server.
func (u upstream) start(t *testing.T, keepAlive time.Duration) *servers.Server {
	t.Helper()
	if u.Program != "" {
		needs.Program(t, u.Program, u.Package)
	}
	s, err := servers.StartAt(t.TempDir(), u.Kind, keepAlive, u.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(false); err != nil {
			t.Error(err)
		}
	})
	return s
}

// site is the Caddyfile of its host, with settings of the transport.
func (u upstream) site(port, settings string) string {
	scheme := map[string]string{"http/1.1": "http", "h2": "https", "h2c": "h2c"}[u.Protocol]
	if u.Protocol == "h2" {
		settings += "\ntls_insecure_skip_verify"
	}
	return fmt.Sprintf(`
http://%s:%s {
	reverse_proxy %s://%s {
		transport upstreampool {
			%s
		}
	}
}
`, u.host, port, scheme, u.addr, settings)
}

// A webClient asks for any host at one address, over plain HTTP.
type webClient struct{ http.Client }

func newWebClient(t testing.TB, addr string) *webClient {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 100,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &webClient{http.Client{Transport: transport, Timeout: 20 * time.Second}}
}

// do returns the status of the response, once it was read to its end.
func (c *webClient) do(method, host, target string) (int, error) {
	var body io.Reader
	if method != http.MethodGet {
		body = strings.NewReader("a body")
	}
	req, err := http.NewRequest(method, "http://"+host+target, body)
	if err != nil {
		return 0, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// A sample is one line of a metric.
type sample struct {
	labels map[string]string
	value  float64
}

var (
	sampleLine  = regexp.MustCompile(`^(\w+)\{(.*)\} (\S+)$`)
	sampleLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// samples returns the lines of a metric of upstreampool that are about one
// upstream.
func (c *caddy) samples(metric, addr string) (found []sample) {
	c.t.Helper()
	lines := bufio.NewScanner(strings.NewReader(c.get("/metrics")))
	for lines.Scan() {
		m := sampleLine.FindStringSubmatch(lines.Text())
		if m == nil || m[1] != "caddy_upstreampool_"+metric {
			continue
		}
		s := sample{labels: make(map[string]string)}
		for _, l := range sampleLabel.FindAllStringSubmatch(m[2], -1) {
			s.labels[l[1]] = l[2]
		}
		if s.labels["upstream"] != addr {
			continue
		}
		var err error
		if s.value, err = strconv.ParseFloat(m[3], 64); err != nil {
			c.t.Fatalf("reading metric %s: %v", lines.Text(), err)
		}
		found = append(found, s)
	}
	return found
}

// connections returns how many connections to an upstream are in a state.
func (c *caddy) connections(addr, state string) int {
	c.t.Helper()
	for _, s := range c.samples("connections", addr) {
		if s.labels["state"] == state {
			return int(s.value)
		}
	}
	return 0
}
