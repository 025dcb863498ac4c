package origin

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	_ "github.com/caddy-connreuse/connreuse/misdirected"
)

func init() { caddy.RegisterModule(probe{}) }

// probe is a handler that has wrappers of the server it is in.
type probe struct {
	Wrappers []*ListenerWrapper `json:"wrappers"`
	server   *authority.Server
}

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_probe", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) Provision(ctx caddy.Context) (err error) {
	for _, w := range p.Wrappers {
		if err := w.Provision(ctx); err != nil {
			return err
		}
	}
	p.server, err = authority.ForServer(ctx)
	return err
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// It compares, over random configurations and all names, what is advertised with what
// a server does and with the definition:
//
//   - an advertised origin is not answered 421, nor is the own (RFC 8336 section 2.3);
//   - it is covered by the certificate, is never asked for its client certificate in
//     another way, and is no wildcard;
//   - by default it is spelled out in every certificate that may be presented: a
//     stranger learns no name from the frame;
//   - no matcher on who the client is stands beside it, unless it is listed;
//   - each exact name that meets the definition is advertised, up to max_origins, or as
//     listed;
//   - by default there is a frame only where it names all that the certificate covers,
//     or where something of that is refused.
//
// Checklist: M23, O4, O13, O14, O15, O17, O18, O19.
func TestAdvertisedIsNeverRefusedInRandomConfigurations(t *testing.T) {
	g := newGenerator()
	certificates := testcaddy.TLSApp(t, `{}`, issued...)
	counts := make(map[string]int)
	for range 300 {
		c := g.config()
		srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, `{`+certificates+`,"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,`+c.json+`}}}}`, ""))
		check := &propertyCheck{t: t, config: c, srv: srv, counts: counts}
		for _, route := range srv.Routes {
			if found, ok := route.Handlers[0].(*probe); ok {
				check.probe = found
			}
		}
		// in two rounds, so that what is kept is used as well
		for range 2 {
			for _, sni := range append(slices.Clone(generatedNames), "made-up.w.p2.test", "made-up.p2.test", "other.test", "A.P2.test", "") {
				check.connection(sni)
			}
		}
	}
	for _, what := range []string{"advertised", "cut", "no frame", "spelled out", "by sites alone"} {
		if counts[what] < 50 {
			t.Errorf("%s: %d times, want more", what, counts[what])
		}
	}
	t.Log(counts)
}

// A propertyCheck checks the connections to a server with a random configuration.
type propertyCheck struct {
	t      *testing.T
	config generated
	srv    *caddyhttp.Server
	probe  *probe
	counts map[string]int
}

func (p *propertyCheck) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf(format+", in %s", append(args, p.config.json)...)
}

// connection checks what a connection is told by each wrapper.
func (p *propertyCheck) connection(sni string) {
	s := p.probe.server.Snapshot()
	canonical, _ := hostname.ParseSNI(sni)
	for i, wrapper := range p.probe.Wrappers {
		naming := []authority.Naming{authority.BySpelling, authority.BySites, authority.Listed, authority.Listed}[i]
		candidates := universe
		switch i {
		case 2:
			candidates = p.config.listed
		case 3: // none
			candidates = nil
		}
		var want []string
		for _, host := range candidates {
			if host != canonical && s.Advertised(naming, canonical, host) {
				want = append(want, "https://"+host)
			}
		}
		if len(want) > p.config.most && i < 2 {
			p.counts["cut"]++
			want = want[:p.config.most]
		}
		frames := wrapper.frames(sni, &net.TCPAddr{Port: 443})
		if frames.count == 0 && i == 0 {
			p.counts["no frame"]++
			p.takesNothingAway(canonical, want)
			continue
		}
		got := slices.Concat(decode(p.t, frames.bytes)...)
		if !slices.Equal(got, want) {
			p.fail("SNI %q, wrapper %d: told %v, want %v", sni, i, got, want)
		}
		for _, o := range got {
			p.advertised(naming, sni, canonical, strings.TrimPrefix(o, "https://"))
		}
		if i == 0 {
			p.frameIsNeeded(canonical, got)
		}
		if status := testcaddy.Get(p.srv, sni, sni).Code; canonical != "" && len(got) > 0 && status != 200 {
			p.fail("SNI %q: its own origin is answered %d", sni, status)
		}
	}
}

// advertised checks one host that a connection is told of.
func (p *propertyCheck) advertised(naming authority.Naming, sni, canonical, host string) {
	p.counts["advertised"]++
	s := p.probe.server.Snapshot()
	switch status := testcaddy.Get(p.srv, sni, host).Code; {
	case status != 200:
		p.fail("SNI %q: %s is advertised, and answered %d", sni, host, status)
	case !s.CertificateCovers(canonical, host):
		p.fail("SNI %q: %s is advertised, and not in its certificate", sni, host)
	case !s.SameClientAuth(canonical, host):
		p.fail("SNI %q: %s is advertised, and has another rule for client certificates", sni, host)
	case strings.Contains(host, "*"):
		p.fail("SNI %q: %s is advertised", sni, host)
	case naming != authority.Listed && !p.config.open[host]:
		p.fail("SNI %q: %s is advertised, and is not named openly", sni, host)
	}
	spelled := true
	for _, certificate := range presentedFor(canonical) {
		spelled = spelled && slices.Contains(certificate, host)
	}
	switch {
	case naming == authority.BySpelling && !spelled:
		p.fail("SNI %q: %s is advertised, and a certificate does not tell of it", sni, host)
	case spelled:
		p.counts["spelled out"]++
	case naming == authority.BySites:
		p.counts["by sites alone"]++
	}
}

// covered returns the hosts of this server that a certificate for the SNI covers,
// besides the SNI itself.
func (p *propertyCheck) covered(sni string) (hosts []string) {
	s := p.probe.server.Snapshot()
	for _, certificate := range presentedFor(sni) {
		for _, host := range append(slices.Clone(universe), "made-up.w.p2.test", "made-up.p2.test", "another.w.p2.test", "another.p2.test") {
			if host != sni && coveredBy(certificate, host) && s.Site(host) != "none" {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

// takesNothingAway checks that a connection without a frame needs none: all that its
// certificate covers is accepted, and a frame could not name all of it.
func (p *propertyCheck) takesNothingAway(sni string, nameable []string) {
	all := true
	for _, host := range p.covered(sni) {
		if testcaddy.Get(p.srv, sni, host).Code == http.StatusMisdirectedRequest {
			p.fail("SNI %q: no frame is sent, and %s is answered 421", sni, host)
		}
		all = all && slices.Contains(nameable, "https://"+host)
	}
	if all {
		p.fail("SNI %q: no frame is sent, though it could name all", sni)
	}
}

// frameIsNeeded checks that a frame without a host was sent to keep clients from
// something.
func (p *propertyCheck) frameIsNeeded(sni string, told []string) {
	covered := p.covered(sni)
	s := p.probe.server.Snapshot()
	refused := slices.ContainsFunc(covered, func(host string) bool { return !s.Accepted(sni, host) })
	missing := slices.ContainsFunc(covered, func(host string) bool { return !slices.Contains(told, "https://"+host) })
	if missing && !refused {
		p.fail("SNI %q: a frame is sent that only takes away: %v of %v", sni, told, covered)
	}
}
