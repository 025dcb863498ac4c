package command

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

var errInterrupted = errors.New("interrupted")

// A site is one URL: where it is, and how it answers on a connection of its own.
type site struct {
	target      target
	addresses   []string
	addressErr  error
	protocol    string
	certificate *x509.Certificate
	own         answer
	err         error

	conn *http2Conn // opened for it; nil unless it speaks HTTP/2
}

// A pair is the second's request on a connection opened for the first.
type pair struct {
	first, second *site
	found
	origins []string // that were listed on the connection
	badList error    // what is wrong with its ORIGIN frames
	checked bool
	verdict verdict
	meaning string
}

// coalesce is the command coalesce.
func coalesce(ctx context.Context, urls []string, opts options) (int, error) {
	targets, err := parseTargets(urls)
	if err != nil {
		return exitUsage, err
	}
	for i, t := range targets {
		if t.scheme != "https" {
			return exitUsage, fmt.Errorf("reading URL '%s': the scheme must be https, since clients share no other connections", t.text)
		}
		for _, other := range targets[:i] {
			if other.origin() == t.origin() {
				return exitUsage, fmt.Errorf("reading URL '%s': '%s' is of the same origin, %s", t.text, other.text, t.origin())
			}
		}
	}
	sites, pairs := opts.examine(ctx, targets)
	if opts.json {
		err = writeJSON(opts.stdout, coalesceJSONOf(sites, pairs))
	} else {
		writeCoalesce(opts.stdout, sites, pairs)
	}
	if err != nil {
		return exitFailed, err
	}
	return coalesceCode(ctx, pairs), nil
}

// examine asks each site on a connection of its own, and then for all the others
// on that connection.
func (d *dialer) examine(ctx context.Context, targets []target) ([]*site, []*pair) {
	sites := make([]*site, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		sites[i] = &site{target: t}
		wg.Go(func() { d.visit(ctx, sites[i]) })
	}
	wg.Wait()
	var pairs []*pair
	for _, first := range sites {
		var mine []*pair
		for _, second := range sites {
			if first != second {
				mine = append(mine, &pair{first: first, second: second, verdict: verdictUnchecked})
			}
		}
		pairs = append(pairs, mine...)
		wg.Go(func() {
			for _, p := range mine {
				d.check(ctx, p)
			}
			first.hangUp()
		})
	}
	wg.Wait()
	return sites, pairs
}

// visit finds the addresses of a site and asks it on a connection of its own,
// which stays open if it speaks HTTP/2.
func (d *dialer) visit(ctx context.Context, s *site) {
	if s.addresses, s.addressErr = d.addresses(ctx, s.target); s.addressErr != nil {
		s.err = s.addressErr
		return
	}
	s.own, s.err = d.connectTo(ctx, s)
	s.protocol = s.own.protocol
	if s.err != nil && ctx.Err() != nil {
		s.err = errInterrupted
	}
}

// connectTo opens a connection for a site and asks for it there.
func (d *dialer) connectTo(ctx context.Context, s *site) (answer, error) {
	c, err := d.open(ctx, s.target)
	if err != nil {
		return answer{}, err
	}
	stop := context.AfterFunc(ctx, c.interrupt)
	s.certificate = c.tls.PeerCertificates[0]
	sp, err := c.speak()
	if err != nil {
		stop()
		c.Close()
		return answer{}, err
	}
	a, err := sp.get(s.target, false)
	if h, ok := sp.(*http2Conn); ok && err == nil {
		s.conn = h
		return a, nil
	}
	stop()
	c.Close()
	return a, err
}

func (s *site) hangUp() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// check asks for the second site of a pair on a connection of the first.
func (d *dialer) check(ctx context.Context, p *pair) {
	if p.first.err != nil {
		p.err = fmt.Errorf("no connection for %s: %w", p.first.target.authority(), p.first.err)
		return
	}
	if ctx.Err() != nil {
		p.err = errInterrupted
		return
	}
	p.found = found{
		first: p.first.target.authority(), second: p.second.target.authority(),
		h2: p.first.protocol == "h2", protocol: p.first.protocol,
		sameAddress: p.first.target.port == p.second.target.port && shared(p.first.addresses, p.second.addresses),
		covered:     p.first.certificate.VerifyHostname(p.second.target.name) == nil,
		origin:      originAbsent,
		own:         p.second.own.status,
	}
	if p.h2 && !d.ask(ctx, p) {
		return
	}
	p.checked = true
	p.verdict, p.meaning = p.judge()
}

// ask asks for the second site on the connection of the first, and tells whether
// that came to a result. A server may have closed the connection over the pair
// before; then it is opened again. After a GOAWAY it is opened again once: clients
// use another connection then, and have none to use if that ends alike.
func (d *dialer) ask(ctx context.Context, p *pair) bool {
	conn, err := p.first.conn, error(nil)
	if conn == nil {
		conn, err = d.reopen(ctx, p.first)
	}
	if err == nil {
		p.ask(conn)
		if conn.goAway != "" && (p.once || p.err != nil) {
			if conn, err = d.reopen(ctx, p.first); err == nil {
				conn.awaitGoAway()
				p.ask(conn)
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		p.err = errInterrupted
		return false
	case err != nil:
		p.err = fmt.Errorf("opening another connection for %s: %w", p.found.first, err)
		return false
	default:
		return true
	}
}

// reopen opens a connection for a site in place of the one before.
func (d *dialer) reopen(ctx context.Context, s *site) (*http2Conn, error) {
	s.hangUp()
	if _, err := d.connectTo(ctx, s); err != nil {
		return nil, err
	}
	if s.conn == nil {
		return nil, errors.New("the server does not speak HTTP/2 this time")
	}
	return s.conn, nil
}

// ask asks for the second site on a connection of the first, unless a GOAWAY has
// come there.
func (p *pair) ask(conn *http2Conn) {
	var a answer
	if p.once = conn.goAway != ""; !p.once {
		a, p.err = conn.get(p.second.target, false)
	}
	p.status = a.status
	p.origin, p.origins = conn.originSet(p.second.target), slices.Clone(conn.origins)
	p.badList = conn.originErr
	if p.err != nil || a.last != "" {
		p.first.hangUp()
	}
}

// originSet says what the ORIGIN frames of the connection say about t.
func (h *http2Conn) originSet(t target) originSet {
	switch {
	case !h.told:
		return originAbsent
	case len(h.origins) == 0:
		return originEmpty
	case slices.ContainsFunc(h.origins, func(o string) bool { return strings.EqualFold(o, t.origin()) }):
		return originListed
	default:
		return originNotListed
	}
}

// shared tells whether two sites can be reached at one address.
func shared(a, b []string) bool {
	return slices.ContainsFunc(a, func(addr string) bool { return slices.Contains(b, addr) })
}

// coalesceCode is the exit code for the verdicts.
func coalesceCode(ctx context.Context, pairs []*pair) int {
	unchecked := slices.ContainsFunc(pairs, func(p *pair) bool { return p.verdict == verdictUnchecked })
	switch {
	case ctx.Err() != nil && unchecked:
		return exitInterrupted
	case unchecked:
		return exitFailed
	case slices.ContainsFunc(pairs, func(p *pair) bool { return p.verdict.trouble() }):
		return exitFound
	default:
		return caddy.ExitCodeSuccess
	}
}
