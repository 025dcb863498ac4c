package upstreampool

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/resolve"
)

// A core is everything of a transport that survives a reload: its pools, what
// was learned, and the net/http transports to dial with.
type core struct {
	id                string // tells transports apart, by their settings
	cfg               config
	h2Transport       *http.Transport // negotiates, or speaks h2c
	h1Transport       *http.Transport // HTTP/1 only
	tls               *tls.Config
	sessions          tls.ClientSessionCache
	sniHasPlaceholder bool
	proxy             func(*http.Request) (*url.URL, error)
	users             users
	upstreams         upstreams
	records           records
	names             *resolve.Follower // nil: no name is followed

	group *connpool.Group
	mu    sync.RWMutex
	pools map[key]*pool
}

func (c *core) log() *zap.Logger { return c.users.logger() }

// pool returns the pool of a target, made on first use.
func (c *core) pool(tg *target) *pool {
	c.mu.RLock()
	p := c.pools[tg.key]
	c.mu.RUnlock()
	if p != nil {
		return p
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pools[tg.key]; p != nil {
		return p
	}
	p = c.newPool(tg)
	if c.pools == nil {
		c.pools = make(map[key]*pool)
	}
	c.pools[tg.key] = p
	return p
}

// newPool makes the pool of a target.
func (c *core) newPool(tg *target) *pool {
	own := *tg
	p := &pool{core: c, host: hostOf(tg), record: c.records.get(tg.key, c.upstreams.get(tg.key.upstream()))}
	p.up.pools.Add(1)
	p.Pool = c.group.NewPool(connpool.Options{
		Memory:   &p.up.Upstream,
		Protocol: c.protocol(tg.key),
		TLS:      tg.scheme == "https",
		Events:   p,
		Dial:     func(d *connpool.Dial) (connpool.Dialed, error) { return c.dial(d, &own, p.label) },
		Emptied:  func() { c.forget(p) },
		WarmFor:  c.warmFor(address{tg.network, tg.addr}),
	})
	return p
}

// warmForFound is how long after its last request connections are kept to an upstream
// that `dynamic` found: an address that it finds no more may soon be that of somebody else.
const warmForFound = time.Minute

// warmFor returns for how long min_idle keeps connections to an address; zero: as long as
// to any.
func (c *core) warmFor(a address) time.Duration {
	if c.users.find(a) {
		return warmForFound
	}
	return 0
}

// forget removes a pool that is gone.
func (c *core) forget(p *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pools[p.key] == p {
		delete(c.pools, p.key)
		p.up.pools.Add(-1)
	}
}

// all returns the pools there are.
func (c *core) all() []*pool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	pools := make([]*pool, 0, len(c.pools))
	for _, p := range c.pools {
		pools = append(pools, p)
	}
	return pools
}

// Destruct implements caddy.Destructor: the last configuration that used these
// pools is gone. Requests under way finish, idle connections close now.
func (c *core) Destruct() error {
	c.upstreams.forget()
	if c.names != nil {
		c.names.Stop()
	}
	c.group.Retire()
	for _, p := range c.all() {
		p.Drain()
	}
	return nil
}
