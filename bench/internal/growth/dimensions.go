package growth

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

const domain = "growth.test"

// asked is the site that the first request is for, proxied one in front of upstreams.
var asked, proxied = host(0), host(1)

func host(n int) string { return fmt.Sprintf("host-%d.%s", n, domain) }

// wildcard writes a certificate for all hosts into a file.
func wildcard(dir string) (file string, err error) {
	cert, err := testcert.SelfSigned("*." + domain)
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "wildcard.pem")
	return file, testcert.WritePEM(cert, file, file)
}

type object = map[string]any

var answer = object{"handler": "static_response", "body": "ok"}

// guarded are the handlers of a site.
func guarded(with bool, handlers ...any) []any {
	if with {
		return append([]any{object{"handler": "misdirected"}}, handlers...)
	}
	return handlers
}

// site is one of so many.
func site(n int, handlers []any) object {
	return sidebyside.Site(sidebyside.Routes(handlers...), host(n))
}

// server has TLS on, HTTP/3 included.
func server(s setting, policies, routes []any) map[string]any {
	server := object{
		"listen": []string{s.addr}, "automatic_https": object{"disable": true}, "strict_sni_host": false,
		"tls_connection_policies": policies, "routes": routes,
	}
	if s.with {
		server["listener_wrappers"] = []any{object{"wrapper": "origin", "origins": []string{"sites"}}}
	}
	return map[string]any{"server": server}
}

var dimensions = []dimension{
	{name: "sites", what: "sites", servers: func(s setting) map[string]any {
		var routes []any
		for i := range s.n {
			routes = append(routes, site(i, guarded(s.with, answer)))
		}
		return server(s, []any{object{}}, routes)
	}},
	{name: "blocks", what: "guarded handle blocks of one site", servers: func(s setting) map[string]any {
		var blocks []any
		for i := range s.n {
			blocks = append(blocks, object{
				"match": []any{object{"path": []string{fmt.Sprintf("/block-%d/*", i)}}}, "group": "blocks",
				"handle": []any{object{"handler": "subroute", "routes": sidebyside.Routes(guarded(s.with, answer)...)}},
			})
		}
		blocks = append(blocks, sidebyside.Routes(guarded(s.with, answer)...)...)
		return server(s, []any{object{}}, []any{sidebyside.Site(blocks, asked)})
	}},
	{name: "policies", what: "TLS policies, each of one site", servers: func(s setting) map[string]any {
		var policies, routes []any
		for i := range s.n {
			minimum := []string{"tls1.2", "tls1.3"}[i%2]
			policies = append(policies, object{"match": object{"sni": []string{host(i)}}, "protocol_min": minimum})
			routes = append(routes, site(i, guarded(s.with, answer)))
		}
		return server(s, append(policies, object{}), routes)
	}},
	{name: "upstreams", what: "upstreams of one site, asked once each", use: askUpstreams, servers: func(s setting) map[string]any {
		var upstreams []any
		for i := range s.n {
			upstreams = append(upstreams, object{"dial": fmt.Sprintf("127.1.%d.%d:%s", i/250, 1+i%250, s.port)})
		}
		return proxying(s, upstreams, nil, proxied)
	}},
	{name: "names", what: "made-up hosts and server names, each asked for once", use: askNames, secure: true, servers: func(s setting) map[string]any {
		return proxying(s, []any{object{"dial": "127.0.0.1:" + s.port}}, object{"insecure_skip_verify": true, "server_name": "{http.request.host}"}, "*."+domain)
	}},
}

// proxying is a server with the site that is asked first, and with a site for hosts in front
// of upstreams, which take turns.
func proxying(s setting, upstreams []any, secure object, hosts string) map[string]any {
	transport := object{"protocol": "http"}
	if s.with {
		transport["protocol"] = "upstreampool"
	}
	if secure != nil {
		transport["tls"] = secure
	}
	proxy := object{
		"handler": "reverse_proxy", "upstreams": upstreams, "transport": transport,
		"load_balancing": object{"selection_policy": object{"policy": "round_robin"}},
	}
	return server(s, []any{object{}}, []any{
		site(0, guarded(s.with, answer)),
		sidebyside.Site(sidebyside.Routes(guarded(s.with, proxy)...), hosts),
	})
}

// ask sends a request over a new connection, with the host as server name.
func ask(ctx context.Context, addr, host string) error {
	conn, err := dial(ctx, addr, host)
	if err != nil {
		return err
	}
	defer conn.Close()
	return askOn(conn, bufio.NewReader(conn), host)
}

func dial(ctx context.Context, addr, serverName string) (net.Conn, error) {
	dialer := tls.Dialer{Config: &tls.Config{ServerName: serverName, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
	return dialer.DialContext(ctx, "tcp", addr)
}

func askOn(conn net.Conn, r *bufio.Reader, host string) error {
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusMisdirectedRequest {
		return fmt.Errorf("%s for %s", resp.Status, host)
	}
	return nil
}

// first asks for the site that there is in all sizes.
func first(ctx context.Context, addr string) error { return ask(ctx, addr, asked) }

// askUpstreams asks so many times, on few connections: each upstream once.
func askUpstreams(ctx context.Context, s setting) error {
	return inParallel(ctx, s, proxied, func(conn net.Conn, r *bufio.Reader, _ int) error { return askOn(conn, r, proxied) })
}

// askNames asks for so many hosts that nobody has heard of, each over a connection
// with that server name, and for as many others on few connections, where they are
// refused.
func askNames(ctx context.Context, s setting) error {
	return inParallel(ctx, s, asked, func(conn net.Conn, r *bufio.Reader, i int) error {
		made := fmt.Sprintf("made-up-%d.%s", i, domain)
		return errors.Join(ask(ctx, s.addr, made), askOn(conn, r, "not-"+made))
	})
}

// inParallel lets a few workers share the numbers below n. Each has a connection with the
// server name.
func inParallel(ctx context.Context, s setting, serverName string, work func(conn net.Conn, r *bufio.Reader, i int) error) error {
	var count atomic.Int64
	errs := make([]error, 8)
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			conn, err := dial(ctx, s.addr, serverName)
			if err != nil {
				errs[w] = err
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for i := int(count.Add(1)) - 1; i < s.n && errs[w] == nil; i = int(count.Add(1)) - 1 {
				errs[w] = work(conn, r, i)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
