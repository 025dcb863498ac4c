// Package identity counts requests that travel on a connection that is not right
// for them: upstream, on one that was opened for another TLS server name;
// downstream, where an ORIGIN frame told the client to.
package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-connreuse/connreuse" // what the servers are made of
	"github.com/caddy-connreuse/connreuse/bench/internal/report"
	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/port"
)

// requests are sent in each case, in turn for either of two hosts.
const requests = 400

// Run runs Caddy in this process.
func Run(ctx context.Context, _ report.Options) (*report.Result, error) {
	result := &report.Result{
		Title: "The connection that is right for a request",
		Text: fmt.Sprintf("Upstream: `tls_server_name {http.request.host}`, %d requests in turn for two hosts, to one address. Which of them "+
			"arrive on a connection that was opened for the other host? Downstream: a server with eight sites, of several scopes, TLS policies and "+
			"certificates. Which of the origins that a connection is told of are refused on that connection?", requests),
	}
	table := report.Table{
		Title:   fmt.Sprintf("Requests on a connection for the other host, of %d:", requests),
		Columns: []string{"upstream", "clients", "transport http", "upstreampool"},
	}
	for _, protocol := range []string{"h1", "h2"} {
		for _, clients := range []int{1, 8} {
			wrong, err := mixed(ctx, protocol, clients)
			if err != nil {
				return nil, fmt.Errorf("%s, %d clients: %w", protocol, clients, err)
			}
			table.Rows = append(table.Rows, []string{protocol, strconv.Itoa(clients), fmt.Sprint(wrong["http"]), fmt.Sprint(wrong["upstreampool"])})
			result.None(fmt.Sprintf("identity/%s-%d", protocol, clients),
				fmt.Sprintf("requests of `upstreampool` on another host's connection, upstream %s, %d clients", protocol, clients), int(wrong["upstreampool"]), requests).With("transport http", wrong["http"])
		}
	}
	told, refused, err := advertised(ctx)
	if err != nil {
		return nil, fmt.Errorf("ORIGIN frames: %w", err)
	}
	result.None("identity/origin", "origins that ORIGIN frames tell of and that are answered 421 on the same connection", refused, told)
	strange, of, err := strangers(ctx)
	if err != nil {
		return nil, fmt.Errorf("ORIGIN frames beside a catch-all: %w", err)
	}
	result.None("identity/catch-all", "names that a catch-all alone serves, under a certificate that has them, of which ORIGIN frames tell", strange, of)
	result.Tables = append(result.Tables, table)
	return result, nil
}

// hosts are those that requests are for.
var hosts = []string{"a.identity.test", "b.identity.test"}

// mixed counts, for each transport, the requests that arrive on a connection that
// was opened for another host.
func mixed(ctx context.Context, protocol string, clients int) (map[string]int64, error) {
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != r.TLS.ServerName {
			w.WriteHeader(http.StatusMisdirectedRequest - 1) // not 421, which would be sent again
		}
	}))
	upstream.EnableHTTP2 = protocol == "h2"
	upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
	upstream.StartTLS()
	defer upstream.Close()

	servers, addresses := make(map[string]any), make(map[string]string)
	for _, transport := range []string{"http", "upstreampool"} {
		port, err := port.Free()
		if err != nil {
			return nil, err
		}
		addresses[transport] = fmt.Sprintf("127.0.0.1:%d", port)
		servers[transport] = proxy(addresses[transport], upstream.Listener.Addr().String(), transport)
	}
	stop, err := run(map[string]any{"http": map[string]any{"servers": servers}})
	if err != nil {
		return nil, err
	}
	defer stop()

	wrong := make(map[string]int64)
	for transport, address := range addresses {
		if wrong[transport], err = inTurn(ctx, "http://"+address+"/", clients); err != nil {
			return nil, err
		}
	}
	return wrong, nil
}

// proxy is a server with one site for all hosts, in front of an upstream that gets
// connections for each of them.
func proxy(address, upstream, transport string) map[string]any {
	return map[string]any{
		"listen": []string{address}, "automatic_https": map[string]any{"disable": true},
		"routes": []any{sidebyside.Site(sidebyside.Routes(map[string]any{
			"handler":   "reverse_proxy",
			"upstreams": []any{map[string]any{"dial": upstream}},
			"headers":   map[string]any{"request": map[string]any{"set": map[string]any{"Host": []string{"{http.request.host}"}}}},
			"transport": map[string]any{
				"protocol": transport,
				"tls":      map[string]any{"server_name": "{http.request.host}", "insecure_skip_verify": true},
			},
		}), hosts...)},
	}
}

// inTurn sends all requests, and counts those that are not answered with 200.
func inTurn(ctx context.Context, url string, clients int) (int64, error) {
	var next, wrong atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			for n := next.Add(1); n <= requests; n = next.Add(1) {
				status, err := ask(ctx, client, url, hosts[n%int64(len(hosts))])
				if err != nil {
					failed.Store(&err)
					return
				}
				if status != http.StatusOK {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return wrong.Load(), nil
}

func ask(ctx context.Context, client *http.Client, url, host string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Host = host
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// run runs Caddy with apps.
func run(apps map[string]any) (stop func(), err error) {
	text, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}},
		"apps":    apps,
	})
	if err != nil {
		return nil, err
	}
	var config caddy.Config
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	return func() { _ = caddy.Stop() }, caddy.Run(&config)
}
