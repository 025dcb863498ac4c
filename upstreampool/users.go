package upstreampool

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/matcher"
)

// maxSites is how many sites of a core are told.
const maxSites = 20

// A user is a transport that uses a core, as far as the core needs to know it.
type user struct {
	logger    *zap.Logger
	sites     []string
	addresses []address // of the upstreams that its reverse_proxy names
	dynamic   bool      // it finds others

	releaseStorage func() // nil: nothing is remembered
}

// users are the transports that use a core. Their loggers end with their
// configurations, so the core logs with that of the last one. Without any, that goes
// on for requests that are under way.
type users struct {
	mu   sync.Mutex
	list []*user
	last atomic.Pointer[zap.Logger]
}

func (u *users) join(one *user) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = append(u.list, one)
	u.last.Store(one.logger)
}

func (u *users) leave(one *user) {
	if one.releaseStorage != nil {
		one.releaseStorage()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = slices.DeleteFunc(u.list, func(other *user) bool { return other == one })
	if n := len(u.list); n > 0 {
		u.last.Store(u.list[n-1].logger)
	}
}

func (u *users) logger() *zap.Logger {
	if l := u.last.Load(); l != nil {
		return l
	}
	return zap.NewNop()
}

// name tells whether a user names an upstream.
func (u *users) name(a address) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.list, func(one *user) bool { return slices.Contains(one.addresses, a) })
}

// find tells whether a is no address that a user names, but one that a user found.
func (u *users) find(a address) bool {
	u.mu.Lock()
	dynamic := slices.ContainsFunc(u.list, func(one *user) bool { return one.dynamic })
	u.mu.Unlock()
	return dynamic && !u.name(a)
}

// sites returns the sites of all users, sorted.
func (u *users) sites() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []string
	for _, one := range u.list {
		all = append(all, one.sites...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(len(all), maxSites)]
}

// sitesOf tells whose transport is being provisioned: the hosts that the route of
// its server names, which is a site of a Caddyfile, or else the server itself.
// Routes are provisioned in order, so it is the first one without handlers.
func sitesOf(ctx caddy.Context) []string {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return nil
	}
	routes := server.Routes
	if server.Errors != nil {
		routes = slices.Concat(routes, server.Errors.Routes)
	}
	i := slices.IndexFunc(routes, func(r caddyhttp.Route) bool { return len(r.Handlers) == 0 && len(r.HandlersRaw) > 0 })
	if i >= 0 {
		if hosts := matcher.Hosts(routes[i].MatcherSets); len(hosts) > 0 {
			return hosts[:min(len(hosts), maxSites)]
		}
	}
	return []string{server.Name()}
}
