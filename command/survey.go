package command

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

var errInterrupted = errors.New("interrupted")

// A survey finds out what sites answer on connections of their own, and on
// connections that were opened for others of them.
type survey struct {
	dialer *dialer
	sites  []*site
	pairs  []*pair
}

// A site is one URL: where it is, and how it answers on a connection of its own.
type site struct {
	target      target
	addresses   []string
	addressErr  error
	protocol    string
	certificate *x509.Certificate
	status      int     // 0: there is no answer
	samples     []*page // the page, each on a connection of its own
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

func newSurvey(d *dialer, targets []target) *survey {
	s := &survey{dialer: d}
	for _, t := range targets {
		s.sites = append(s.sites, &site{target: t})
	}
	for _, first := range s.sites {
		for _, second := range s.sites {
			if first != second {
				s.pairs = append(s.pairs, &pair{first: first, second: second, verdict: verdictUnchecked})
			}
		}
	}
	return s
}

// run asks each site on a connection of its own, and then for all the others on
// that connection. Where a page is not the one of the site, more of the site's own
// show whether it is ever the same.
func (s *survey) run(ctx context.Context) {
	s.each(func(site *site) { s.visit(ctx, site) })
	s.each(func(site *site) {
		for _, p := range s.pairs {
			if p.first == site {
				s.examine(ctx, p)
			}
		}
		site.hangUp()
	})
	s.each(func(site *site) {
		if slices.ContainsFunc(s.pairs, func(p *pair) bool { return p.second == site && p.differs() }) {
			s.sample(ctx, site)
		}
	})
	for _, p := range s.pairs {
		if p.checked {
			p.compare()
			p.verdict, p.meaning = p.judge()
		}
	}
}

// each does something for all sites, side by side.
func (s *survey) each(do func(*site)) {
	var wg sync.WaitGroup
	for _, site := range s.sites {
		wg.Go(func() { do(site) })
	}
	wg.Wait()
}

// visit finds the addresses of a site and asks it on a connection of its own,
// which stays open if it speaks HTTP/2.
func (s *survey) visit(ctx context.Context, site *site) {
	if site.addresses, site.addressErr = s.dialer.addresses(ctx, site.target); site.addressErr != nil {
		site.err = site.addressErr
		return
	}
	shown := new(page)
	own, err := s.connect(ctx, site, shown)
	site.protocol, site.status, site.err = own.protocol, own.status, err
	if err == nil {
		site.samples = []*page{shown}
	} else if ctx.Err() != nil {
		site.err = errInterrupted
	}
}

// moreSamples is how often a page is asked for again that does not come alike.
const moreSamples = 2

// sample asks for the page of a site again, each time on a connection of its own.
func (s *survey) sample(ctx context.Context, site *site) {
	for range moreSamples {
		shown := new(page)
		if _, err := s.connect(ctx, site, shown); err == nil {
			site.samples = append(site.samples, shown)
		}
		site.hangUp()
	}
}

// connect opens a connection for a site and asks for it there.
func (s *survey) connect(ctx context.Context, site *site, shown *page) (answer, error) {
	c, err := s.dialer.open(ctx, site.target)
	if err != nil {
		return answer{}, err
	}
	stop := context.AfterFunc(ctx, c.interrupt)
	site.certificate = c.tls.PeerCertificates[0]
	sp, err := c.speak()
	if err != nil {
		stop()
		c.Close()
		return answer{}, err
	}
	a, err := sp.get(site.target, shown)
	if h, ok := sp.(*http2Conn); ok && err == nil && (a.last == "" || h.goAway != "") {
		site.conn = h
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

// examine asks for the second site of a pair on a connection of the first.
func (s *survey) examine(ctx context.Context, p *pair) {
	if p.first.err != nil {
		p.err = fmt.Errorf("no connection for %s: %w", p.first.target.authority(), p.first.err)
		return
	}
	if ctx.Err() != nil {
		p.err = errInterrupted
		return
	}
	p.found = found{
		firstHost: p.first.target.authority(), secondHost: p.second.target.authority(),
		h2: p.first.protocol == "h2", protocol: p.first.protocol,
		sameAddress: p.first.target.port == p.second.target.port && shared(p.first.addresses, p.second.addresses),
		covered:     p.first.certificate.VerifyHostname(p.second.target.name) == nil,
		origin:      originAbsent,
		own:         p.second.status,
	}
	p.checked = !p.h2 || s.ask(ctx, p)
}

// ask asks for the second site on the connection of the first, and tells whether
// that came to a result. A server may have closed the connection over the pair
// before; then it is opened again. After a GOAWAY it is opened again once: clients
// use another connection then, and have none to use if that ends alike.
func (s *survey) ask(ctx context.Context, p *pair) bool {
	conn, err := p.first.conn, error(nil)
	if conn == nil {
		conn, err = s.reopen(ctx, p.first)
	}
	if err == nil {
		p.request(conn)
		if conn.goAway != "" && (p.once || p.err != nil) {
			if conn, err = s.reopen(ctx, p.first); err == nil {
				conn.awaitGoAway()
				p.request(conn)
			}
		}
	}
	switch {
	case ctx.Err() != nil:
		p.err = errInterrupted
		return false
	case err != nil:
		p.err = fmt.Errorf("opening another connection for %s: %w", p.firstHost, err)
		return false
	default:
		return true
	}
}

// reopen opens a connection for a site in place of the one before.
func (s *survey) reopen(ctx context.Context, site *site) (*http2Conn, error) {
	site.hangUp()
	a, err := s.connect(ctx, site, new(page))
	switch {
	case err != nil:
		return nil, err
	case site.conn == nil && a.protocol == "h2":
		return nil, fmt.Errorf("its answer leaves none: %s", a.last)
	case site.conn == nil:
		return nil, errors.New("the server does not speak HTTP/2 this time")
	default:
		return site.conn, nil
	}
}

// request asks for the second site on a connection of the first, unless a GOAWAY has
// come there.
func (p *pair) request(conn *http2Conn) {
	var a answer
	if p.once = conn.goAway != ""; !p.once {
		p.page = new(page)
		a, p.err = conn.get(p.second.target, p.page)
	}
	p.status = a.status
	p.origin, p.origins = conn.originSet(p.second.target), slices.Clone(conn.origins)
	p.badList = conn.originErr
	if p.err != nil || a.last != "" {
		p.first.hangUp()
	}
}

// comparable tells whether there are two pages, and whether it matters what they
// are: a refusal is none.
func (p *pair) comparable() bool {
	return p.checked && p.answered() && p.status != 421 && len(p.second.samples) > 0
}

// differs tells whether the page is not the sample that there is.
func (p *pair) differs() bool {
	if !p.comparable() {
		return false
	}
	result, _ := compare(p.second.samples, p.page)
	return result != pageSame
}

// compare compares the page with those of the second site, and if it is another,
// with those of the first.
func (p *pair) compare() {
	if !p.comparable() {
		return
	}
	p.result, p.resultWhy = compare(p.second.samples, p.page)
	if p.result == pageAnother && len(p.second.samples) == 1 {
		p.result, p.resultWhy = pageNotComparable, "the page of "+p.secondHost+" could not be had a second time, to see whether it is always the same"
	}
	if p.result == pageAnother && len(p.first.samples) > 0 {
		result, _ := compare(p.first.samples, p.page)
		title := p.page.title()
		p.ofFirst = result == pageSame || result == pageNotComparable && title != "" && title == p.first.samples[0].title()
	}
}

// shared tells whether two sites can be reached at one address.
func shared(a, b []string) bool {
	return slices.ContainsFunc(a, func(addr string) bool { return slices.Contains(b, addr) })
}

// code is the exit code for the verdicts.
func (s *survey) code(ctx context.Context) int {
	has := make(map[verdict]bool)
	for _, p := range s.pairs {
		has[p.verdict] = true
	}
	unchecked := has[verdictUnchecked]
	switch {
	case ctx.Err() != nil && unchecked:
		return exitInterrupted
	case has[verdictWrong]:
		return exitWrong
	case unchecked || has[verdictNotComparable]:
		return exitFailed
	case has[verdictBroken] || has[verdictContradicted]:
		return exitFound
	default:
		return caddy.ExitCodeSuccess
	}
}
