// Package admin answers, on Caddy's admin API under /connreuse/, which
// connections are reused, which are refused, and why.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/misdirected"
	"github.com/caddy-connreuse/connreuse/upstreampool"
)

func init() {
	caddy.RegisterModule(API{})
}

// API adds these endpoints to Caddy's admin API. Answers are JSON; errors are
// those of Caddy's own endpoints.
//
// Endpoint | Answer
// ---------|-------
// `GET /connreuse/` | A status page
// `GET /connreuse/upstreams?upstream=` | The pools of all upstreams, or of one
// `POST /connreuse/upstreams/drain?upstream=` | Closes their idle connections
// `GET /connreuse/origins?server=&sni=` | What a connection is told by ORIGIN frames
// `GET /connreuse/misdirected` | Decisions counted, and the last 100 refusals
// `GET /connreuse/history` | What happened in the last 10 minutes
// `GET /connreuse/sites?server=` | Which sites share a certificate, and what follows
// `GET /connreuse/explain?server=&sni=&host=` | What becomes of a request, rule by rule
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.connreuse",
		New: func() caddy.Module { return new(API) },
	}
}

// An endpoint answers one path.
type endpoint struct {
	path   string
	method string
	params []string
	answer func(url.Values) (any, error)
}

var endpoints = []endpoint{
	{"upstreams", http.MethodGet, []string{"upstream"}, upstreams},
	{"upstreams/drain", http.MethodPost, []string{"upstream"}, drain},
	{"origins", http.MethodGet, []string{"server", "sni"}, origins},
	{"misdirected", http.MethodGet, nil, refusals},
	{"history", http.MethodGet, nil, history},
	{"sites", http.MethodGet, []string{"server"}, sites},
	{"explain", http.MethodGet, []string{"server", "sni", "host"}, explain},
}

const base = "/connreuse/"

// Routes implements caddy.AdminRouter.
func (API) Routes() []caddy.AdminRoute {
	routes := []caddy.AdminRoute{{Pattern: base, Handler: caddy.AdminHandlerFunc(servePage)}}
	for _, e := range endpoints {
		routes = append(routes, caddy.AdminRoute{Pattern: base + e.path, Handler: e})
	}
	return routes
}

// ServeHTTP implements caddy.AdminHandler.
func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	if err := allow(w, r, e.method); err != nil {
		return err
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return failed(http.StatusBadRequest, "reading the query: %v", err)
	}
	for name, values := range params {
		switch {
		case !slices.Contains(e.params, name):
			return failed(http.StatusBadRequest, "reading the query: there is no parameter '%s', only: %s", name, strings.Join(e.params, ", "))
		case len(values) > 1:
			return failed(http.StatusBadRequest, "reading the query: '%s' must be given only once", name)
		}
	}
	answer, err := e.answer(params)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(answer)
}

func allow(w http.ResponseWriter, r *http.Request, method string) error {
	if r.Method == method {
		return nil
	}
	w.Header().Set("Allow", method)
	return failed(http.StatusMethodNotAllowed, "method %s is not allowed, only %s", r.Method, method)
}

func failed(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

// Upstreams is the answer to GET /connreuse/upstreams.
type Upstreams struct {
	Pools []upstreampool.PoolState `json:"pools"`
}

func upstreams(params url.Values) (any, error) {
	answer := Upstreams{Pools: upstreampool.States()}
	if upstream := params.Get("upstream"); upstream != "" {
		answer.Pools = slices.DeleteFunc(answer.Pools, func(p upstreampool.PoolState) bool { return p.Upstream != upstream })
		if len(answer.Pools) == 0 {
			return nil, noPool(upstream)
		}
	}
	return answer, nil
}

// Drained is the answer to POST /connreuse/upstreams/drain.
type Drained struct {
	Pools       int `json:"pools"`
	Connections int `json:"connections"` // that were idle, and are closed
}

func drain(params url.Values) (any, error) {
	upstream := params.Get("upstream")
	pools, connections := upstreampool.Drain(upstream)
	if upstream != "" && pools == 0 {
		return nil, noPool(upstream)
	}
	return Drained{pools, connections}, nil
}

func noPool(upstream string) error {
	return failed(http.StatusNotFound, "there is no pool of upstream '%s' now; GET %supstreams lists them", upstream, base)
}

// Origins is the answer to GET /connreuse/origins.
type Origins struct {
	// Those with the SNI asked for, which also say what is left out; else some for
	// each of the first exact names of the sites of each server. An SNI has one for
	// each port that the server's listeners with TLS have.
	Connections []authority.OriginExplanation `json:"connections"`
	// How many names have none for want of room.
	More int `json:"more"`
}

// mostSites is how many connections of one server are explained at once.
const mostSites = 20

func origins(params url.Values) (any, error) {
	answer := Origins{Connections: []authority.OriginExplanation{}}
	servers := slices.DeleteFunc(authority.Active(), func(s *authority.Server) bool { return !s.SendsOrigins() || !s.HasTLS() })
	if params.Get("server") != "" || params.Has("sni") {
		server, err := find(params.Get("server"), servers, "an origin listener wrapper and TLS")
		if err != nil {
			return nil, err
		}
		if params.Has("sni") {
			answer.Connections = append(answer.Connections, server.ExplainOrigins(params.Get("sni"), true)...)
			return answer, nil
		}
		servers = []*authority.Server{server}
	}
	for _, server := range servers {
		for i, name := range server.Names() {
			if i == mostSites {
				answer.More += len(server.Names()) - mostSites
				break
			}
			answer.Connections = append(answer.Connections, server.ExplainOrigins(name, false)...)
		}
	}
	return answer, nil
}

// Sites is the answer to GET /connreuse/sites.
type Sites struct {
	// One for each of the first exact names of the sites of each server with TLS.
	Sites []authority.Site `json:"sites"`
	// How many names have none for want of room.
	More int `json:"more"`
}

func sites(params url.Values) (any, error) {
	answer := Sites{Sites: []authority.Site{}}
	servers := slices.DeleteFunc(authority.Active(), func(s *authority.Server) bool { return !s.HasTLS() })
	if name := params.Get("server"); name != "" {
		server, err := find(name, servers, "TLS and a connreuse module")
		if err != nil {
			return nil, err
		}
		servers = []*authority.Server{server}
	}
	for _, server := range servers {
		list, more := server.Sites(mostSites)
		answer.Sites, answer.More = append(answer.Sites, list...), answer.More+more
	}
	return answer, nil
}

// Misdirected is the answer to GET /connreuse/misdirected.
type Misdirected struct {
	// Requests by outcome, since the process began.
	Requests []misdirected.Count `json:"requests"`
	// The last 100, the latest first.
	Refusals []misdirected.Refusal `json:"refusals"`
}

func refusals(url.Values) (any, error) {
	return Misdirected{misdirected.Counts(), misdirected.Recent()}, nil
}

func explain(params url.Values) (any, error) {
	if !params.Has("host") {
		return nil, failed(http.StatusBadRequest, "reading the query: host is missing; without sni, a connection without server name is meant")
	}
	server, err := find(params.Get("server"), explainable(params.Get("server")), "a connreuse module")
	if err != nil {
		return nil, err
	}
	return server.Explain(params.Get("sni"), params.Get("host")), nil
}

// explainable are the servers that a question without a server's name may mean:
// those with TLS, since no request on any other has an SNI, and of these, those
// with a guard, since it decides. Where there are none of a kind, it does not count.
func explainable(name string) []*authority.Server {
	servers := authority.Active()
	if name != "" {
		return servers
	}
	for _, counts := range []func(*authority.Server) bool{(*authority.Server).HasTLS, (*authority.Server).Guarded} {
		if slices.ContainsFunc(servers, counts) {
			servers = slices.DeleteFunc(servers, func(s *authority.Server) bool { return !counts(s) })
		}
	}
	return servers
}

// find returns the server of that name among those, which have something; without
// a name, the only one.
func find(name string, servers []*authority.Server, something string) (*authority.Server, error) {
	var names []string
	for _, server := range servers {
		if server.Name() == name || name == "" && len(servers) == 1 {
			return server, nil
		}
		names = append(names, server.Name())
	}
	switch {
	case len(names) == 0:
		return nil, failed(http.StatusNotFound, "no HTTP server of the running config has %s", something)
	case name == "":
		return nil, failed(http.StatusBadRequest, "reading the query: server is missing, must be one of: %s", strings.Join(names, ", "))
	default:
		return nil, failed(http.StatusNotFound, "server '%s' does not have %s; must be one of: %s", name, something, strings.Join(names, ", "))
	}
}

// Interface guards
var (
	_ caddy.AdminRouter  = (*API)(nil)
	_ caddy.AdminHandler = endpoint{}
)
