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
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

const domain = "growth.test"

// asked is the site that the first request is for.
var asked = host(0)

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
func server(with bool, addr string, policies, routes []any) map[string]any {
	s := object{
		"listen": []string{addr}, "automatic_https": object{"disable": true}, "strict_sni_host": false,
		"tls_connection_policies": policies, "routes": routes,
	}
	if with {
		s["listener_wrappers"] = []any{object{"wrapper": "origin", "origins": []string{"sites"}}}
	}
	return map[string]any{"server": s}
}

var dimensions = []dimension{
	{name: "sites", what: "sites", servers: func(n int, with bool, addr string) map[string]any {
		var routes []any
		for i := range n {
			routes = append(routes, site(i, guarded(with, answer)))
		}
		return server(with, addr, []any{object{}}, routes)
	}},
	{name: "blocks", what: "guarded handle blocks of one site", servers: func(n int, with bool, addr string) map[string]any {
		var blocks []any
		for i := range n {
			blocks = append(blocks, object{
				"match": []any{object{"path": []string{fmt.Sprintf("/block-%d/*", i)}}}, "group": "blocks",
				"handle": []any{object{"handler": "subroute", "routes": sidebyside.Routes(guarded(with, answer)...)}},
			})
		}
		blocks = append(blocks, sidebyside.Routes(guarded(with, answer)...)...)
		return server(with, addr, []any{object{}}, []any{sidebyside.Site(blocks, asked)})
	}},
	{name: "policies", what: "TLS policies, each of one site", servers: func(n int, with bool, addr string) map[string]any {
		var policies, routes []any
		for i := range n {
			minimum := []string{"tls1.2", "tls1.3"}[i%2]
			policies = append(policies, object{"match": object{"sni": []string{host(i)}}, "protocol_min": minimum})
			routes = append(routes, site(i, guarded(with, answer)))
		}
		return server(with, addr, append(policies, object{}), routes)
	}},
	{name: "upstreams", what: "upstreams, asked once each", servers: proxying("{http.request.header.Upstream}", ""), use: askUpstreams},
	{name: "names", what: "made-up hosts and server names, each asked for once", servers: proxying("{http.request.header.Upstream}", "{http.request.host}"), use: askNames},
}

// proxying is a server with one site for the host that is asked first and one for all
// others. Both are in front of an upstream by a field of the request, with a server name
// for it that clients choose.
func proxying(dial, serverName string) func(n int, with bool, addr string) map[string]any {
	return func(_ int, with bool, addr string) map[string]any {
		transport := object{"protocol": "http"}
		if with {
			transport["protocol"] = "upstreampool"
		}
		if serverName != "" {
			transport["tls"] = object{"insecure_skip_verify": true, "server_name": serverName}
		}
		proxy := object{"handler": "reverse_proxy", "upstreams": []any{object{"dial": dial}}, "transport": transport}
		first := object{"match": []any{object{"path": []string{"/first"}}}, "handle": guarded(with, answer)}
		proxied := sidebyside.Routes(guarded(with, proxy)...)
		routes := []any{sidebyside.Site(append([]any{first}, proxied...), asked), sidebyside.Site(proxied, "*."+domain)}
		return server(with, addr, []any{object{}}, routes)
	}
}

// ask sends a request over a new connection, with the host as server name.
func ask(ctx context.Context, addr, host, path, upstream string) error {
	dialer := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return askOn(conn, bufio.NewReader(conn), host, path, upstream)
}

func askOn(conn net.Conn, r *bufio.Reader, host, path, upstream string) error {
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpstream: %s\r\n\r\n", path, host, upstream)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusMisdirectedRequest {
		return fmt.Errorf("%s from %s for %s", resp.Status, upstream, host)
	}
	return nil
}

// first asks for the site that there is in all sizes.
func first(ctx context.Context, addr string) error { return ask(ctx, addr, asked, "/first", "") }

// askUpstreams asks so many upstreams: all loopback addresses of one server.
func askUpstreams(ctx context.Context, n int, addr string) error {
	l, err := fake.ListenAt("0.0.0.0:0", nil)
	if err != nil {
		return err
	}
	defer l.Stop()
	if err := l.Serve(false, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, nil); err != nil {
		return err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return inParallel(n, func(next func() (int, bool)) error {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: asked, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for i, more := next(); more; i, more = next() {
			if err := askOn(conn, r, asked, "/", fmt.Sprintf("127.1.%d.%d:%d", i/250, 1+i%250, port)); err != nil {
				return err
			}
		}
		return nil
	})
}

// askNames asks for so many hosts that nobody has heard of, each over a connection
// with that server name, and for as many others on one connection, where they are
// refused.
func askNames(ctx context.Context, n int, addr string) error {
	l, err := fake.Listen(nil)
	if err != nil {
		return err
	}
	defer l.Stop()
	if err := l.Serve(true, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }, nil); err != nil {
		return err
	}
	upstream := l.Addr().String()
	return inParallel(n, func(next func() (int, bool)) error {
		conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: asked, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			return err
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for i, more := next(); more; i, more = next() {
			made := fmt.Sprintf("made-up-%d.%s", i, domain)
			if err := errors.Join(ask(ctx, addr, made, "/", upstream), askOn(conn, r, "not-"+made, "/", upstream)); err != nil {
				return err
			}
		}
		return nil
	})
}

// inParallel lets a few workers share the numbers below n.
func inParallel(n int, work func(next func() (int, bool)) error) error {
	var count atomic.Int64
	errs := make([]error, 8)
	var all sync.WaitGroup
	for w := range errs {
		all.Go(func() {
			errs[w] = work(func() (int, bool) {
				i := int(count.Add(1)) - 1
				return i, i < n
			})
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
