package peers

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
)

// methods are those of the load; each client has one of them.
var methods = []string{http.MethodGet, http.MethodPost}

// A count is of requests, by method.
type count struct{ sent, failed map[string]int }

// A client holds one connection and never repeats a request, unlike browsers and
// net/http's client, which would hide failures.
type client struct {
	addr   string
	conn   net.Conn
	reader *bufio.Reader
}

// send sends a request and reports whether it was answered with 2xx.
func (c *client) send(ctx context.Context, method, target string) bool {
	if c.conn == nil {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: sidebyside.Host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
		conn, err := dialer.DialContext(ctx, "tcp", c.addr)
		if err != nil {
			return false
		}
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	resp, err := sidebyside.Exchange(c.conn, c.reader, method, target, 20*time.Second)
	if err != nil || resp.Close {
		c.close()
	}
	return err == nil && resp.StatusCode/100 == 2
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// burst sends that many requests at once, half of them GET and half POST, each
// over its own client, and counts them.
func burst(ctx context.Context, clients []*client, target string, into *count) {
	answered := make([]bool, len(clients))
	var all sync.WaitGroup
	for i, c := range clients {
		all.Go(func() { answered[i] = c.send(ctx, methods[i%len(methods)], target) })
	}
	all.Wait()
	for i, ok := range answered {
		method := methods[i%len(methods)]
		into.sent[method]++
		if !ok {
			into.failed[method]++
		}
	}
}

// sweep sends a burst after each of the gaps, and one before them all, which
// opens the connections and does not count.
func sweep(ctx context.Context, addr, target string, clients int, gaps []time.Duration) (count, error) {
	all := make([]*client, clients)
	for i := range all {
		all[i] = &client{addr: addr}
		defer all[i].close()
	}
	warm, counted := newCount(), newCount()
	burst(ctx, all, target, &warm)
	for _, gap := range gaps {
		select {
		case <-ctx.Done():
			return counted, ctx.Err()
		case <-time.After(gap):
		}
		burst(ctx, all, target, &counted)
	}
	return counted, nil
}

func (c count) perThousand(method string) float64 {
	return 1000 * float64(c.failed[method]) / float64(c.sent[method])
}

func newCount() count { return count{make(map[string]int), make(map[string]int)} }
