package upstreampool

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-connreuse/connreuse/internal/connpool"
	"github.com/caddy-connreuse/connreuse/internal/resolve"
)

// mostTrial is how long a request waits at most for a connection to an address that
// nobody knows to answer, while there is another connection.
const mostTrial = time.Second

// resolver returns what dials look names up with: the same as in the embedded
// transport, which keeps its own to itself. Its settings are checked.
func (t *Transport) resolver() *net.Resolver {
	if t.Resolver == nil {
		return net.DefaultResolver
	}
	var servers []caddy.NetworkAddress
	for _, text := range t.Resolver.Addresses {
		if a, err := caddy.ParseNetworkAddressWithDefaults(text, "udp", 53); err == nil {
			servers = append(servers, a)
		}
	}
	d := net.Dialer{Timeout: time.Duration(t.DialTimeout), FallbackDelay: time.Duration(t.FallbackDelay)}
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			a := servers[rand.N(len(servers))]
			return d.DialContext(ctx, a.Network, a.JoinHostPort(0))
		},
	}
}

// lookupBy returns the function that asks a resolver.
func lookupBy(r *net.Resolver) func(ctx context.Context, host string) ([]netip.Addr, error) {
	return func(ctx context.Context, host string) ([]netip.Addr, error) { return r.LookupNetIP(ctx, "ip", host) }
}

// hostOf returns the name of a target's upstream. There is none where it is an
// address or a Unix socket, or where a forward proxy looks it up.
func hostOf(tg *target) string {
	host, _, err := net.SplitHostPort(tg.addr)
	if err != nil || tg.proxyURL != nil || !strings.HasPrefix(tg.network, "tcp") {
		return ""
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}

// follow has the name of p looked up again and again while p has connections, if
// the configuration names it. Names that clients choose are theirs to look up.
func (p *pool) follow() {
	if c := p.core; c.names != nil && p.host != "" && c.users.name(address{p.key.network, p.key.addr}) {
		c.names.Follow(p.host)
	}
}

// named takes notice of the answers for a host. It tells whether any pool has
// connections that they matter to.
func (c *core) named(host string, answers *resolve.History) (more bool) {
	for _, p := range c.all() {
		if p.host == host && p.compare(answers) {
			more = true
		}
	}
	return more
}

// compare holds the addresses of p's connections against the answers for its name,
// and tells whether there are any. Those that DNS has given up are left if there is
// another that has answered a request. Otherwise they are doubted: DNS may be wrong,
// and they are all there is.
func (p *pool) compare(answers *resolve.History) bool {
	d := p.doubt.Load() // before it is looked who has answered
	remotes := p.Remotes()
	p.judge(d, remotes, answers)
	return len(remotes) > 0
}

// judge goes on from doubt d, which may be nil, with the addresses of p's connections,
// and whether they have answered. If a response has ended d meanwhile, there is nothing
// left to say.
func (p *pool) judge(d *doubt, remotes map[netip.Addr]bool, answers *resolve.History) {
	var gone []netip.Addr
	proven := false
	for a, heard := range remotes {
		if answers.Gone(a) {
			gone = append(gone, a)
		} else if heard {
			proven = true
		}
	}
	var next *doubt
	if len(gone) > 0 && !proven {
		next = d.again(gone, p.core.cfg.followDNS)
	}
	if p.doubt.CompareAndSwap(d, next) && proven && len(gone) > 0 {
		p.leave(gone)
	}
}

// leave takes the connections to addresses that DNS has given up out of use.
func (p *pool) leave(gone []netip.Addr) {
	left := p.Leave(gone)
	p.core.log().Info("DNS no longer names addresses of upstream, their connections get no more requests",
		zap.String("upstream", p.name), zap.Stringers("addresses", gone), zap.Int("connections", left))
}

// A doubt is about the connections of a pool to addresses that DNS has given up,
// while no other address has answered. They are used, but from time to time a
// request tries a new connection first.
type doubt struct {
	gone    []netip.Addr
	since   time.Time
	pause   time.Duration // between requests that try
	triedAt atomic.Int64  // in Unix nanoseconds
	warned  *atomic.Bool
}

// again returns a doubt that follows d, which may be nil, a lookup later.
func (d *doubt) again(gone []netip.Addr, interval time.Duration) *doubt {
	next := &doubt{gone: gone, since: time.Now(), pause: interval / 4, warned: new(atomic.Bool)}
	if d != nil {
		next.since, next.warned = d.since, d.warned
		next.triedAt.Store(d.triedAt.Load())
	}
	return next
}

// tries tells whether a request with need n is the one to try a new connection. One
// that cannot be repeated does so only if no other has come for a while.
func (d *doubt) tries(n connpool.Need) bool {
	now, pause := time.Now(), d.pause
	if n.Freshness != connpool.Any || n.Probe || n.Owner != nil || !n.Replayable && now.Sub(d.since) < pause {
		return false
	}
	if !n.Replayable {
		pause *= 2
	}
	last := d.triedAt.Load()
	return now.UnixNano()-last >= int64(pause) && d.triedAt.CompareAndSwap(last, now.UnixNano())
}

// acquire leases a connection for a request. A request whose owner matters needs a
// certain one, so it tries no address.
func (p *pool) acquire(ctx context.Context, n connpool.Need, l *connpool.Lease) error {
	n.Owner = p.ownerFor(ctx, n)
	if d := p.doubt.Load(); d != nil && n.Owner == nil && d.tries(n) && p.acquireNew(ctx, n, d, l) {
		return nil
	}
	return p.Acquire(ctx, n, l)
}

// acquireNew leases a new connection, and tells whether one could be opened soon. A full
// pool has room for it, or its old connections would stand in the way for ever.
func (p *pool) acquireNew(ctx context.Context, n connpool.Need, d *doubt, l *connpool.Lease) bool {
	short, cancel := context.WithTimeout(ctx, min(d.pause, mostTrial))
	defer cancel()
	n.Freshness, n.Probe = connpool.Fresh, true
	err := p.Acquire(short, n, l)
	if err != nil && err != connpool.ErrGone && ctx.Err() == nil {
		p.unanswered(err)
	}
	return err == nil
}

// unanswered tells, once for a doubt, that an address which DNS names did not answer.
func (p *pool) unanswered(err error) {
	if d := p.doubt.Load(); d != nil && !d.warned.Swap(true) {
		p.core.log().Warn("DNS no longer names addresses of upstream, but those that it names do not answer",
			zap.String("upstream", p.name), zap.Stringers("addresses", d.gone), zap.Error(err))
	}
}

// doubts tells whether a request is the first to learn whether the address of its
// connection answers: a response from there would have ended the doubt. Such a
// connection may come out of the pool, where it was kept for nobody so far.
func (p *pool) doubts(l *connpool.Lease) bool {
	d := p.doubt.Load()
	return d != nil && !slices.Contains(d.gone, l.Remote())
}

// answered takes notice of a response: if its address is none that DNS has given
// up, there is nothing to be said for those any more.
func (p *pool) answered(l *connpool.Lease) {
	for d := p.doubt.Load(); d != nil && !slices.Contains(d.gone, l.Remote()); d = p.doubt.Load() {
		if p.doubt.CompareAndSwap(d, nil) {
			p.leave(d.gone)
			return
		}
	}
}
