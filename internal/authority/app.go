package authority

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(App{})
}

// App holds what the connreuse modules of one config know of its HTTP servers.
// It has no settings and need not be configured: the first connreuse module
// that is provisioned loads it. It is an app so that it lives and ends with the
// config, and so that it can warn of dangerous settings once all of the config
// is known.
type App struct {
	ctx     caddy.Context
	tls     *caddytls.TLS
	logger  *zap.Logger
	servers map[*caddyhttp.Server]*Server
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "connreuse",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision sets up the app.
func (app *App) Provision(ctx caddy.Context) error {
	tls, err := ctx.App("tls")
	if err != nil {
		return fmt.Errorf("getting tls app: %w", err)
	}
	app.ctx = ctx
	app.tls = tls.(*caddytls.TLS)
	app.logger = ctx.Logger()
	app.servers = make(map[*caddyhttp.Server]*Server)
	return nil
}

// Start logs the warnings.
func (app *App) Start() error {
	for _, w := range app.Warnings() {
		app.logger.Warn(w.Message, append(w.Fields, zap.String("server", w.Server))...)
	}
	return nil
}

// Warnings returns what is dangerous in the config, on servers without a
// connreuse module as well: strict_sni_host is often turned off for all of them
// at once. All of the config must be provisioned; it need not be started.
func (app *App) Warnings() (all []Warning) {
	http, err := app.ctx.AppIfConfigured("http")
	if err != nil {
		return nil
	}
	servers := http.(*caddyhttp.App).Servers
	foreseen := newManaged(servers, app.tls)
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		var found []Warning
		if server, ok := app.servers[servers[name]]; ok {
			found = append(server.Snapshot().warnings(), server.sharedWarnings(foreseen)...)
		} else if names := unguardedNames(servers[name]); len(names) > 0 {
			found = []Warning{warn(unguarded, "sites", names)}
		}
		for _, w := range found {
			w.Server = name
			all = append(all, w)
		}
	}
	return append(all, app.originWarnings(servers)...)
}

// Server returns the server of that name; nil, if no connreuse module is in it.
func (app *App) Server(name string) *Server {
	for srv, s := range app.servers {
		if srv.Name() == name {
			return s
		}
	}
	return nil
}

// Stop does nothing.
func (App) Stop() error { return nil }

// A Server gathers what is needed for a [Snapshot] while one HTTP server is
// being provisioned.
type Server struct {
	http     *caddyhttp.Server
	snapshot func() *Snapshot
	guards   []*Guard
	origins  OriginExplainer
	sets     *OriginSets
	tls      tlsListeners
	sources  map[string]caddyhttp.IPRangeSource // by their JSON
	said     sync.Map                           // what was said once
	logger   *zap.Logger
}

// Name is its name in the config.
func (s *Server) Name() string { return s.http.Name() }

// HasTLS tells whether the server serves HTTPS.
func (s *Server) HasTLS() bool { return len(s.http.TLSConnPolicies) > 0 }

// Guarded tells whether one of its routes has a guard.
func (s *Server) Guarded() bool { return len(s.guards) > 0 }

// ForServer returns the Server for the HTTP server whose handler or listener
// wrapper is being provisioned with ctx.
func ForServer(ctx caddy.Context) (*Server, error) {
	srv, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil, errors.New("finding the HTTP server: this module works only within a server of the http app")
	}
	loaded, err := ctx.App("connreuse")
	if err != nil {
		return nil, err
	}
	app := loaded.(*App)
	if server, ok := app.servers[srv]; ok {
		return server, nil
	}
	ps, err := copyPolicies(srv.TLSConnPolicies)
	if err != nil {
		return nil, err
	}
	server := &Server{http: srv, tls: findTLSListeners(srv, httpPort(ctx)), sources: make(map[string]caddyhttp.IPRangeSource), logger: app.logger}
	server.snapshot = sync.OnceValue(func() *Snapshot { return newSnapshot(srv, ps, app.tls, server.guards) })
	app.servers[srv] = server
	return server, nil
}

// AddGuard makes a guard known. It is for Provision only.
func (s *Server) AddGuard(g *Guard) {
	s.guards = append(s.guards, g)
}

// First tells whether this is the first time that something is said of the server:
// what each request could say again is logged once.
func (s *Server) First(what string) bool {
	_, said := s.said.LoadOrStore(what, true)
	return !said
}

// SetOrigins makes known what tells clients of origins. It is for Provision only.
func (s *Server) SetOrigins(o OriginExplainer) {
	s.origins = o
}

// Snapshot returns what is true on the server. It must not be called before all
// of the config is provisioned: the first call builds it.
func (s *Server) Snapshot() *Snapshot {
	return s.snapshot()
}

// Interface guards
var (
	_ caddy.Provisioner = (*App)(nil)
	_ caddy.App         = (*App)(nil)
)
