package upstreampool

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/resolve"
)

// pools holds the cores of all configurations, so that connections and what was
// learned survive reloads.
var pools = caddy.NewUsagePool()

// provisioning is held from the choice of a key to its use.
var provisioning sync.Mutex

// coreKey says which transports share a core: those of equal settings, as long as
// they trust the same certificates. Others make another generation.
type coreKey struct {
	config     [sha256.Size]byte
	generation int
}

// String is short, and as good as unique among the transports of a configuration.
func (k coreKey) String() string {
	id := hex.EncodeToString(k.config[:4])
	if k.generation > 0 {
		id += "." + strconv.Itoa(k.generation)
	}
	return id
}

// cores returns the cores in use.
func cores() []*core {
	var all []*core
	pools.Range(func(_, v any) bool {
		all = append(all, v.(*core))
		return true
	})
	return all
}

// keyFor returns the key of the core that can stand for fresh, or else one that
// is not in use, so that LoadOrNew takes fresh.
func keyFor(config [sha256.Size]byte, fresh *core) coreKey {
	free := coreKey{config: config}
	match, found := free, false
	pools.Range(func(used, v any) bool {
		if k := used.(coreKey); k.config == config {
			match, found = k, sameRoots(v.(*core).tls.RootCAs, fresh.tls.RootCAs)
			free.generation = max(free.generation, k.generation+1)
		}
		return !found
	})
	if found {
		return match
	}
	return free
}

// newCore makes pools around the provisioned transport, which from then on is
// only used to open connections.
func (t *Transport) newCore(cfg config) *core {
	tr := t.Transport
	c := &core{
		cfg:               cfg,
		group:             connpool.NewGroup(cfg.Config),
		h2Transport:       tr,
		sniHasPlaceholder: t.TLS != nil && strings.Contains(t.TLS.ServerName, "{"),
		proxy:             tr.Proxy,
	}
	c.upstreams.make = c.newUpstream
	if cfg.followDNS > 0 {
		c.names = resolve.NewFollower(cfg.followDNS, lookupBy(t.resolver()), c.named)
	}

	// The pool limits connections, and closes them. net/http would panic as it
	// counts down connections that it never counted up, and would close idle
	// HTTP/2 connections behind our back.
	tr.MaxConnsPerHost = 0
	tr.IdleConnTimeout = 0
	tr.MaxIdleConns = 0
	tr.MaxIdleConnsPerHost = 0
	if tr.TLSClientConfig == nil {
		tr.TLSClientConfig = new(tls.Config)
	}
	// Connections are retired early and often, so they had better be cheap.
	c.sessions = tls.NewLRUClientSessionCache(256)
	c.tls = tr.TLSClientConfig
	tr.Proxy = proxyOf
	if tr.Protocols != nil && slices.Contains(t.Versions, "2") {
		// Go 1.27 goes by this over TLS, too, and Caddy sets it for h2c alone.
		tr.Protocols.SetHTTP2(true)
	}
	if cfg.pingInterval > 0 {
		tr.HTTP2 = &http.HTTP2Config{SendPingTimeout: cfg.pingInterval, PingTimeout: cfg.PingTimeout}
	}
	dial := c.dialer(tr.DialContext)
	tr.DialContext = dial
	tr.DialTLSContext = c.tlsDialer(dial)

	// Upgrade exists in HTTP/1 only (RFC 9113 section 8.6). A second
	// NewTransport would not do: the settings it needs are gone.
	h1 := tr.Clone()
	h1.Protocols = new(http.Protocols)
	h1.Protocols.SetHTTP1(true)
	h1.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	h1.TLSClientConfig.NextProtos = nil
	c.h1Transport = h1
	return c
}
