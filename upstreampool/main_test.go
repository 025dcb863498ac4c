package upstreampool

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/parallel"
)

func TestMain(m *testing.M) {
	if os.Getenv("UPSTREAMPOOL_CHILD") != "" {
		child()
		return
	}
	if addresses := os.Getenv(serverVariable); addresses != "" {
		if err := runServer(addresses); err != nil {
			log.Fatal(err)
		}
		return
	}
	log.SetOutput(io.Discard) // net/http reports surplus bytes there
	parallel.AtLeast(8)       // those that wait only
	needs.Main(m)
}

// child is a process that can be stopped: it sends the requests that it is told
// to, "GET" or "POST", and prints what came of them.
func child() {
	addr := os.Getenv("UPSTREAMPOOL_CHILD")
	host, port, _ := net.SplitHostPort(addr)
	tr := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := tr.Provision(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		rctx := context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{})
		rctx = context.WithValue(rctx, dialInfoKey, reverseproxy.DialInfo{Network: "tcp", Address: addr, Host: host, Port: port})
		req, _ := http.NewRequestWithContext(rctx, in.Text(), "http://"+addr+"/", strings.NewReader("x"))
		_, body, err := send(tr, req)
		fmt.Println("answer", body, err)
	}
}
