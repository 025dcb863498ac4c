package upstreampool

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-connreuse/connreuse/internal/test/apart"
	"github.com/caddy-connreuse/connreuse/internal/test/dns"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

// hostsAt serves HTTP at each of the addresses, on one port, which it returns. Each
// answers with its address.
func hostsAt(t *testing.T, addrs ...string) (port string) {
	t.Helper()
	port = strconv.Itoa(freePort(t)) // which nobody has on another address either
	for _, a := range addrs {
		l, err := net.Listen("tcp", net.JoinHostPort(a, port))
		if err != nil {
			t.Skipf("no server at %s: %v", a, err)
		}
		serveListener(t, l, func(_ int64, c net.Conn, r *bufio.Reader) {
			for fake.ReadRequest(r) != nil {
				fake.Respond(c, a)
			}
		})
	}
	return port
}

// asks returns a function that sends a GET through a Caddy whose upstream is
// moving.test, and returns who answered; "" if nobody did, which is a failure unless
// DNS is down: a request that needs a connection then does not get one.
func asks(t *testing.T, server *dns.Server, port string, down *atomic.Bool) func() string {
	t.Helper()
	url := runCaddy(t, freePort(t), fmt.Sprintf(`,"resolver":{"addresses":[%q]},"follow_dns":"100ms"`, server.Addr()), "", "moving.test:"+port)
	stopCaddy(t)
	c := client(t, false)
	return func() string {
		t.Helper()
		resp, err := c.Get(url)
		if err != nil {
			t.Error(err)
			return ""
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode == http.StatusBadGateway && down.Load() {
			return ""
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("status %d, %v: %s", resp.StatusCode, err, body)
		}
		time.Sleep(5 * time.Millisecond)
		return string(body)
	}
}

// load asks all the time, several times at once, until the test ends.
func load(t *testing.T, ask func() string) {
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask()
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); all.Wait() })
}

// The name is looked up as dials look it up: with the transport's resolver. It
// moves, fails, and moves back.
//
// Checklist: P31.
func TestResolverOption(t *testing.T) {
	if apart.Process(t) {
		return
	}
	const first, second = "127.0.0.2", "127.0.0.3"
	port := hostsAt(t, first, second)
	server := dns.Serve(t, first)
	var down atomic.Bool
	ask := asks(t, server, port, &down)
	if got := ask(); got != first {
		t.Fatalf("answered by %s", got)
	}
	moves := func(to string) {
		t.Helper()
		server.Name(to)
		eventually(t, "requests go to "+to, func() bool {
			for range 50 {
				if ask() != to {
					return false
				}
			}
			return true
		})
		for range 50 {
			if got := ask(); got != to && got != "" {
				t.Fatalf("answered by %s, which DNS has given up", got)
			}
		}
	}
	load(t, ask)
	moves(second)
	dials := opened(t)
	down.Store(true)
	for _, harm := range []func(){server.Mute, func() { server.Fail(dnsmessage.RCodeServerFailure) }, func() { server.Name() }} {
		harm()
		before := server.Asked.Load()
		eventually(t, "the server is asked in vain", func() bool {
			if got := ask(); got != second && got != "" {
				t.Fatalf("answered by %s", got)
			}
			return server.Asked.Load() > before+2
		})
	}
	if n := opened(t) - dials; n > 20 { // the load may need one more now and then
		t.Errorf("%d connections were opened because a resolver failed", n)
	}
	moves(first)
}

// IPv6, and an address that nobody answers at: the old one is used on.
func TestResolverOptionIPv6(t *testing.T) {
	if apart.Process(t) {
		return
	}
	port := hostsAt(t, "::1")
	server := dns.Serve(t, "::1")
	ask := asks(t, server, port, new(atomic.Bool))
	if got := ask(); got != "::1" {
		t.Fatalf("answered by %s", got)
	}
	server.Name("100::1") // RFC 6666: packets are discarded
	before := server.Asked.Load()
	eventually(t, "it is looked up ten times", func() bool {
		if got := ask(); got != "::1" {
			t.Fatalf("answered by %s", got)
		}
		return server.Asked.Load() > before+20
	})
}

// opened returns how many connections there were.
func opened(t *testing.T) (n int64) {
	t.Helper()
	for _, s := range States() {
		n += s.Opened
	}
	return n
}
