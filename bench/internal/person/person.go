// Package person counts requests that are answered as somebody else, where the
// upstream authenticates connections and not requests, as NTLM and Negotiate do.
package person

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/programs"
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// The proxies, by their names in tables.
const (
	ours   = "upstreampool"
	stock  = "transport http"
	safe   = "HAProxy safe"
	always = "HAProxy always"
)

var (
	names     = []string{ours, stock, safe, always}
	protocols = []string{"h1", "h2"}
	// users of the client connections; one without a name has no credentials.
	users = []string{"alice", "bob", "", "alice", "bob", unasked, "", unasked}
)

// unasked is a user who shows credentials at once (Negotiate), without being asked.
const unasked = "carol"

// tries are those of a client that is asked for its credentials: the second time may
// be the challenge, and those after that mean a connection that knows nothing of it.
const tries = 4

// figures are those of one proxy.
type figures struct {
	sent   int
	wrong  int // answered as another user
	locked int // users who did not get in, although they know the password
	again  int // handshakes after the first of a client connection
}

// Run starts all proxies in front of a server with NTLM.
func Run(ctx context.Context, o report.Options) (*report.Result, error) {
	each := 250
	if o.Quick {
		each = 40
	}
	result := &report.Result{
		Title: "The right person",
		Text: fmt.Sprintf("A server that authenticates connections (NTLM), and %d client connections at a time: two of each of two users, who log in once, "+
			"two of a third, who shows credentials (Negotiate) before being asked, and two without any. Each sends %d requests, over HTTP/1.1 and HTTP/2 to the proxy. A request is answered as another when its answer "+
			"names a user who did not send it. HAProxy has `http-reuse safe` (its default) and `always`.", len(users), each),
		Versions: programs.Versions("haproxy"),
	}
	table := report.Table{
		Title:   "Requests answered as another user, users locked out although they know the password, and logins beyond the first of each client connection:",
		Columns: []string{"proxy", "clients", "requests", "as another", "locked out", "logins again"},
	}
	found, err := measure(ctx, each)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		for _, protocol := range protocols {
			f := found[name+protocol]
			table.Rows = append(table.Rows, []string{name, protocol, fmt.Sprint(f.sent), fmt.Sprint(f.wrong), fmt.Sprint(f.locked), fmt.Sprint(f.again)})
		}
	}
	result.Tables = []report.Table{table}
	for _, protocol := range protocols {
		f := found[ours+protocol]
		claim := result.None("person/"+protocol, "NTLM, clients of "+protocol+": requests of `upstreampool` that are answered as another user", f.wrong, f.sent)
		for _, name := range names[1:] {
			claim.With(name, found[name+protocol].wrong)
		}
		claim = result.None("person/"+protocol+"-in", "NTLM, clients of "+protocol+": requests of `upstreampool` whose user is locked out", f.locked, f.sent)
		for _, name := range names[1:] {
			claim.With(name, found[name+protocol].locked)
		}
	}
	seen := found[stock+"h1"].wrong + found[stock+"h2"].wrong
	result.AtLeast("person/control", "NTLM, control: requests of `transport http` that are answered as another user", float64(seen), 1)
	return result, nil
}

// measure returns the figures by proxy and protocol. Each pair has a server of its own.
func measure(ctx context.Context, each int) (map[string]*figures, error) {
	dir, err := os.MkdirTemp("", "connreuse-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	upstreams := make(map[string]string)
	for _, name := range names {
		for _, protocol := range protocols {
			l, err := fake.Listen(nil)
			if err != nil {
				return nil, err
			}
			defer l.Stop()
			l.ServeNTLM()
			upstreams[name+protocol] = l.Addr().String()
		}
	}
	addrs, stop, err := startProxies(dir, upstreams)
	if err != nil {
		return nil, err
	}
	defer stop()
	found := make(map[string]*figures)
	var failed error
	for key, addr := range addrs {
		f := new(figures)
		found[key] = f
		failed = errors.Join(failed, f.load(ctx, addr, strings.HasSuffix(key, "h2"), each))
	}
	return found, failed
}

// startProxies returns the addresses of proxies by the name of their upstream.
func startProxies(dir string, upstreams map[string]string) (addrs map[string]string, stop func(), err error) {
	cert := filepath.Join(dir, "cert.pem")
	if err := programs.WriteCertificate(cert); err != nil {
		return nil, nil, err
	}
	addrs = make(map[string]string)
	for key := range upstreams {
		if addrs[key], err = programs.Address(); err != nil {
			return nil, nil, err
		}
	}
	haproxy, err := startHAProxy(dir, cert, addrs, upstreams)
	if err != nil {
		return nil, nil, err
	}
	caddy, err := startCaddy(addrs, upstreams)
	if err != nil {
		haproxy.Kill()
		return nil, nil, err
	}
	return addrs, func() {
		caddy.Stop()
		haproxy.Kill()
	}, nil
}

func startHAProxy(dir, cert string, addrs, upstreams map[string]string) (*program.Program, error) {
	config, last := programs.HAProxy, ""
	for _, name := range []string{safe, always} {
		_, mode, _ := strings.Cut(name, " ")
		for i, protocol := range protocols {
			last = addrs[name+protocol]
			config += fmt.Sprintf("listen %s-%s\n\tbind %s ssl crt %s alpn %s\n\thttp-reuse %s\n\tserver s %s\n",
				mode, protocol, last, cert, []string{"http/1.1", "h2"}[i], mode, upstreams[name+protocol])
		}
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return programs.Start(last, dir, "haproxy", "haproxy", "-db", "-f", file)
}

func startCaddy(addrs, upstreams map[string]string) (*sidebyside.Caddy, error) {
	servers := make(map[string]any)
	for name, transport := range map[string]string{ours: "upstreampool", stock: "http"} {
		for _, protocol := range protocols {
			servers[transport+protocol] = map[string]any{
				"listen": []string{addrs[name+protocol]}, "automatic_https": map[string]any{"disable_redirects": true},
				"tls_connection_policies": []any{map[string]any{}},
				"routes": []any{sidebyside.Site(sidebyside.Routes(map[string]any{
					"handler":   "reverse_proxy",
					"upstreams": []any{map[string]any{"dial": upstreams[name+protocol]}},
					"transport": map[string]any{"protocol": transport},
				}), sidebyside.Host)},
			}
		}
	}
	caddy, err := sidebyside.StartCaddy(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "PANIC"}}},
	}, servers)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{ours, stock} {
		for _, protocol := range protocols {
			if err := caddy.Certified(addrs[name+protocol]); err != nil {
				caddy.Stop()
				return nil, err
			}
		}
	}
	return caddy, nil
}

// load lets all clients ask at the same time.
func (f *figures) load(ctx context.Context, addr string, http2 bool, each int) error {
	var mu sync.Mutex
	var failed error
	var all sync.WaitGroup
	for _, user := range users {
		all.Go(func() {
			c := newClient(addr, http2)
			defer c.CloseIdleConnections()
			for n := range each {
				one, err := c.ask(ctx, user, n == 0)
				mu.Lock()
				f.sent++
				f.wrong += one.wrong
				f.locked += one.locked
				f.again += one.again
				failed = errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return failed
}

// A client has one connection.
type client struct {
	*http.Client
	url string
}

func newClient(addr string, http2 bool) *client {
	tr := &http.Transport{MaxConnsPerHost: 1, Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{ServerName: sidebyside.Host, InsecureSkipVerify: true}}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	return &client{&http.Client{Transport: tr, Timeout: 20 * time.Second}, "https://" + addr + "/"}
}

// ask sends a request of a user, and logs in if asked to. first: the client has not
// logged in before.
func (c *client) ask(ctx context.Context, user string, first bool) (f figures, err error) {
	credentials := ""
	if first && user == unasked {
		credentials = "Negotiate " + user
	}
	for range tries {
		status, challenge, name, err := c.send(ctx, credentials)
		switch {
		case err != nil:
			return f, err
		case status == http.StatusOK && name != user:
			f.wrong = 1
			return f, nil
		case status == http.StatusOK || user == "":
			return f, nil
		case status != http.StatusUnauthorized:
			return f, fmt.Errorf("status %d", status)
		case challenge == "NTLM challenge":
			credentials = "NTLM " + user + ":proof"
		default:
			credentials = "NTLM " + user
			if user == unasked {
				credentials = "Negotiate " + user
			}
			if !first {
				f.again++
			}
		}
	}
	f.locked = 1
	return f, nil
}

func (c *client) send(ctx context.Context, credentials string) (status int, challenge, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		return 0, "", "", err
	}
	req.Host = sidebyside.Host
	if credentials != "" {
		req.Header.Set("Authorization", credentials)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate"), string(text), err
}
