package boundary

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-connreuse/connreuse/bench/internal/sidebyside"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// The sides that are compared, by the name of their transport.
const (
	stock = "http"
	ours  = "upstreampool"
)

var sides = []string{stock, ours}

// Fields by which a request chooses its way through Caddy.
const (
	sideField     = "X-Side"
	upstreamField = "X-Upstream"
)

// A proxy is a Caddy in front of one server, with both transports.
type proxy struct {
	caddy  *sidebyside.Caddy
	log    string // file
	admin  string // URLs
	plain  string
	secure string
	h1     *http.Client
	h3     *http.Client
}

func startProxy(ctx context.Context, dir string, s *servers.Server) (*proxy, error) {
	var ports [3]string
	for i := range ports {
		port, err := sidebyside.FreePort()
		if err != nil {
			return nil, err
		}
		ports[i] = "127.0.0.1:" + port
	}
	p := &proxy{
		log:   filepath.Join(dir, "caddy.log"),
		admin: "http://" + ports[0], plain: "http://" + ports[1], secure: "https://" + ports[2],
		h1: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, IdleConnTimeout: time.Minute}},
		h3: &http.Client{Transport: &http3.Transport{
			// Caddy's certificate is one for sidebyside.Host by a CA of its own.
			TLSClientConfig: &tls.Config{ServerName: sidebyside.Host, InsecureSkipVerify: true},
			QUICConfig:      &quic.Config{KeepAlivePeriod: 10 * time.Second},
		}},
	}
	var err error
	if p.caddy, err = startCaddy(ports, p.log, s); err != nil {
		return nil, err
	}
	if err := p.answers(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// startCaddy starts Caddy with the addresses of its admin API, of HTTP and of HTTPS.
func startCaddy(addrs [3]string, log string, s *servers.Server) (*sidebyside.Caddy, error) {
	var routes []any
	for _, side := range sides {
		transport := s.Transport()
		transport["protocol"] = side
		routes = append(routes, map[string]any{
			"match": []any{map[string]any{"header": map[string]any{sideField: []string{side}}}},
			"handle": []any{map[string]any{
				"handler":   "reverse_proxy",
				"upstreams": []any{map[string]any{"dial": "{http.request.header." + upstreamField + "}"}},
				"transport": transport,
			}},
		})
	}
	site := []any{sidebyside.Site(routes, sidebyside.Host)}
	return sidebyside.StartCaddy(map[string]any{
		"admin": map[string]any{"listen": addrs[0]},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{
			"level":   "DEBUG",
			"include": []string{"http.log.error", "http.reverse_proxy.transport.upstreampool"},
			"writer":  map[string]any{"output": "file", "filename": log, "roll": false},
		}}},
	}, map[string]any{
		"plain": map[string]any{
			"listen": []string{addrs[1]}, "protocols": []string{"h1"},
			"automatic_https": map[string]any{"disable": true}, "routes": site,
		},
		"secure": map[string]any{
			"listen": []string{addrs[2]}, "protocols": []string{"h1", "h2", "h3"},
			"automatic_https": map[string]any{"disable_redirects": true}, "routes": site,
			"tls_connection_policies": []any{map[string]any{}},
		},
	})
}

// answers waits until Caddy does, over HTTP and over HTTP/3.
func (p *proxy) answers(ctx context.Context) error {
	for _, client := range []string{"GET", viaHTTP3} {
		deadline := time.Now().Add(time.Minute)
		for {
			// No route is for it, so that any answer shows that Caddy listens.
			one, cancel := context.WithTimeout(ctx, 5*time.Second)
			resp, err := p.send(one, request{method: client, target: "/"})
			cancel()
			if err == nil {
				_ = resp.Body.Close()
				break
			}
			if ctx.Err() != nil || time.Now().After(deadline) {
				return fmt.Errorf("waiting for Caddy: %w", err)
			}
			time.Sleep(100 * time.Millisecond) // polls another process
		}
	}
	return nil
}

func (p *proxy) stop() {
	p.h1.CloseIdleConnections()
	p.h3.CloseIdleConnections()
	p.caddy.Stop()
}

// A request is one on its way through Caddy.
type request struct {
	side     string
	method   string // or viaHTTP3
	upstream string
	target   string
	body     []byte
}

// send sends it.
func (p *proxy) send(ctx context.Context, r request) (*http.Response, error) {
	client, base, method := p.h1, p.plain, r.method
	if r.method == viaHTTP3 {
		client, base, method = p.h3, p.secure, http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, base+r.target, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if len(r.body) == 0 {
		req.Body = http.NoBody
	}
	req.Host = sidebyside.Host
	req.Header = http.Header{sideField: {r.side}, upstreamField: {r.upstream}}
	return client.Do(req)
}

var keepAliveMetric = regexp.MustCompile(`(?m)^caddy_upstreampool_keep_alive_seconds\{protocol="[^"]*",source="([^"]*)",upstream="([^"]*)"\}`)

// known returns the upstreams whose keep-alive timeout our side knows. Those
// without a connection at the moment are missing.
func (p *proxy) known(ctx context.Context) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.h1.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, match := range keepAliveMetric.FindAllSubmatch(text, -1) {
		if string(match[1]) != "assumed" {
			known = append(known, string(match[2]))
		}
	}
	return known, nil
}

// explain adds what Caddy logged of failed requests: of themselves, and of their
// upstream around that time.
func (p *proxy) explain(failures []failure) error {
	file, err := os.Open(p.log)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var entry struct {
			Time     float64 `json:"ts"`
			Upstream string  `json:"upstream"`
			Request  struct {
				URI string `json:"uri"`
			} `json:"request"`
		}
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			return fmt.Errorf("reading Caddy's log: %w", err)
		}
		at := time.UnixMicro(int64(entry.Time * 1e6))
		for i := range failures {
			f := &failures[i]
			near := at.After(f.began.Add(-5*time.Second)) && at.Before(f.ended.Add(time.Second))
			if entry.Request.URI == f.target || entry.Upstream == f.upstream && near {
				f.log = append(f.log, lines.Text())
			}
		}
	}
	return lines.Err()
}
