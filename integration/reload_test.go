package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// TestReloads reloads the config 100 times under load, each time a little
// different, with two servers and a handler in each. No request fails, nothing
// is left behind, and the counters go on.
//
// When a server shuts down, net/http closes connections whose request it has
// read but not begun. Clients ask again then, and so do these; that the counts
// are equal at the end shows that nothing was lost or done twice.
func TestReloads(t *testing.T) {
	second := freePort(t)
	c := startCaddy(t, strictOff, fmt.Sprintf(`
a.x.test {
	misdirected
	respond "reload 000"
}
https://a.x.test:%s {
	misdirected {
		scope certificate
	}
	respond "reload 000"
}
o.y.test {
	respond "o"
}
`, second), siteNames)
	// A machine that stands still must not end requests that are under way.
	config := strings.Replace(c.get("/config/"), `"grace_period":2000000000`, `"grace_period":20000000000`, 1)
	if strings.Count(config, "reload 000") != 2 || !strings.Contains(config, `"grace_period":20000000000`) {
		t.Fatalf("the config is not what the test takes it for: %s", config)
	}

	var asked, again atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i, protocol := range []string{"http/1.1", "h2", "http/1.1", "h2"} {
		addr := []string{c.addr, "127.0.0.1:" + second}[i/2]
		transport := &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}},
			ForceAttemptHTTP2: protocol == "h2",
		}
		clients.Go(func() {
			defer transport.CloseIdleConnections()
			for ctx.Err() == nil {
				err := fetch(transport, "https://a.x.test/")
				for tries := 1; err != nil && tries < 20; tries++ {
					again.Add(1)
					err = fetch(transport, "https://a.x.test/")
				}
				if err != nil {
					t.Errorf("request %d over %s: %v", asked.Load(), protocol, err)
					return
				}
				asked.Add(1)
			}
		})
	}

	goroutines := func() int {
		n, err := strconv.Atoi(regexp.MustCompile(`total (\d+)`).FindStringSubmatch(c.get("/debug/pprof/goroutine?debug=1"))[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var before int
	for i := 1; i <= 100; i++ {
		if err := c.load([]byte(strings.ReplaceAll(config, "reload 000", fmt.Sprintf("reload %03d", i)))); err != nil {
			t.Fatalf("reload %d: %v", i, err)
		}
		if i == 10 {
			before = goroutines()
		}
		enough := asked.Load() + 100
		poll.Succeed(c.t, "some more requests", func() error {
			if asked.Load() < enough && !t.Failed() {
				return fmt.Errorf("%d made, want %d", asked.Load(), enough)
			}
			return nil
		})
	}
	// the last config's servers are the only ones once the older ones have drained
	after := 0
	deadline := time.Now().Add(time.Minute)
	for after = goroutines(); after > before+10 && time.Now().Before(deadline); after = goroutines() {
		time.Sleep(100 * time.Millisecond) // polls another process
	}
	stop()
	clients.Wait()
	t.Logf("%d requests over 100 reloads, %d of them asked again; %d goroutines after 10 reloads, %d at the end", asked.Load(), again.Load(), before, after)
	if after > before+10 {
		t.Errorf("%d goroutines after 10 reloads, %d after 100", before, after)
	}
	counted := int64(0)
	for _, match := range regexp.MustCompile(`caddy_misdirected_requests_total\{outcome="direct",protocol="h[12]",server="(srv[01])"\} (\S+)`).FindAllStringSubmatch(c.get("/metrics"), -1) {
		n, err := strconv.ParseFloat(match[2], 64)
		if err != nil || n < 100 {
			t.Errorf("%s: %v", match[0], err)
		}
		counted += int64(n)
	}
	if counted != asked.Load() {
		t.Errorf("%d requests were counted of %d made", counted, asked.Load())
	}
}

func fetch(transport http.RoundTripper, url string) error {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || !strings.HasPrefix(string(body), "reload ")) {
		err = fmt.Errorf("%s: %q", resp.Status, body)
	}
	return err
}
