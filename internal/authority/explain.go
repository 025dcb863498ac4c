package authority

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// Active returns the servers of the running config that have connreuse modules,
// by name.
func Active() []*Server {
	loaded, err := caddy.ActiveContext().AppIfConfigured("connreuse")
	if err != nil {
		return nil
	}
	var servers []*Server
	for _, server := range loaded.(*App).servers {
		servers = append(servers, server)
	}
	slices.SortFunc(servers, func(a, b *Server) int { return cmp.Compare(a.Name(), b.Name()) })
	return servers
}

// A Verdict is what a guard does with a request.
type Verdict struct {
	// Whether the guard runs for every request to the host, or perhaps: other
	// matchers than those on the host, or handlers in front of it, may keep
	// requests from it.
	Runs string `json:"runs"`
	// 421, 400, or 0 if the request passes.
	Status int `json:"status"`
	// Of the closed list of reasons.
	Reason string `json:"reason"`
	// The request would pass all the same.
	ReportOnly bool `json:"report_only"`
	// What it makes of Alt-Svc in the response if the request passes: "clear" or
	// "kept", and why.
	AltSvc string `json:"alt_svc"`
	// The guard's configuration.
	Options string `json:"options"`
	// The decision, rule by rule, in order.
	Rules []Rule `json:"rules"`
}

// A Rule is one step of a decision.
type Rule struct {
	Step    int    `json:"step"`
	Rule    string `json:"rule"`
	Outcome string `json:"outcome"`
}

// An Explanation says what happens to a request on a connection, and why.
type Explanation struct {
	Server string `json:"server"`
	SNI    string `json:"sni"`
	Host   string `json:"host"`

	// "pass", "421", "400", or "depends" on what else is in the request.
	Answer string `json:"answer"`
	// The answer in words.
	Why string `json:"why"`

	// What error routes do with the refusal; empty if there is none.
	ErrorRoutes string `json:"error_routes,omitempty"`

	// Caddy's own check, which comes before all guards, is on.
	StrictSNIHost bool `json:"strict_sni_host"`
	// The sites that Caddy routes the two names to, "none" if there is none.
	SNISite  string `json:"sni_site"`
	HostSite string `json:"host_site"`
	// Whether both have the same TLS connection policy.
	SameTLSPolicy bool `json:"same_tls_policy"`
	// Whether a connection for the host is, or may be, asked for a client
	// certificate.
	AsksClientCertificate bool `json:"asks_client_certificate"`
	// Whether the certificate for the SNI covers the host.
	CertificateCovers bool `json:"certificate_covers"`
	// Whether an ORIGIN frame may tell clients of the host, and why (not).
	Advertised    bool   `json:"advertised"`
	AdvertisedWhy string `json:"advertised_why"`

	// What each guard does that can run for the host, in order.
	Guards []Verdict `json:"guards"`
}

// Explain says what happens to a request for host on a TLS connection with that
// SNI, both as a client would send them.
func (s *Server) Explain(sni, host string) Explanation {
	snap := s.Snapshot()
	e := Explanation{Server: s.Name(), SNI: sni, Host: host, StrictSNIHost: snap.strictSNIHost, Guards: []Verdict{}}
	name, nameErr := hostname.Parse(host)
	sniName, sniErr := hostname.ParseSNI(sni)
	if sni == "" {
		sniName, sniErr = "", nil
	}
	// What Caddy routes by is the host as it was sent.
	routed := hostname.Routed(host)
	e.SNISite, e.HostSite = snap.Site(sniName), snap.Site(routed)
	e.AdvertisedWhy = "the names are not both valid"
	if nameErr == nil && sniErr == nil {
		e.SameTLSPolicy = snap.SamePolicy(sniName, name)
		e.AsksClientCertificate = snap.AsksClientCert(name)
		e.CertificateCovers = snap.CertificateCovers(sniName, name)
		absent := s.absence(sniName, name)
		e.Advertised, e.AdvertisedWhy = absent == Advertised, absent.String()
	}

	refused, depends, reported, handed := snap.guardsSay(&e, routed)
	strict := StrictSNIHostRefuses(s.http, sni, host)
	if strict || refused != "" || depends {
		e.ErrorRoutes = snap.errorRoutesDo(routed, strict || handed)
	}
	switch {
	case strict:
		e.Answer, e.Why = "421", "strict_sni_host is on, and the host is not the SNI: no guard is asked"
	case refused != "":
		e.Answer, e.Why = refused, "a guard refuses it"
	case depends:
		e.Answer, e.Why = "depends", "a guard refuses it if it runs, which depends on what else is in the request"
	case len(e.Guards) == 0 && e.HostSite == "none":
		e.Answer, e.Why = "pass", "no guard runs for this host, and no site is there for it: Caddy answers with an empty response"
	case len(e.Guards) == 0:
		e.Answer, e.Why = "pass", "no guard runs for this host"
	case reported:
		e.Answer, e.Why = "pass", "a guard would refuse it, but only reports"
	default:
		e.Answer, e.Why = "pass", "every guard that runs for this host lets it pass"
	}
	return e
}

// guardsSay asks the guards that can run for a host, as Caddy routes it: what they refuse
// with, or whether that depends on which of them run, whether one only reports, and
// whether error routes are handed the refusal.
func (s *Snapshot) guardsSay(e *Explanation, routed string) (refused string, depends, reported, handed bool) {
	statuses := make(map[int]bool) // 0 to pass
	s.guards.each(routed, func(g *Guard, certain bool) bool {
		v := g.Explain(s, e.SNI, e.Host)
		v.Runs = map[bool]string{true: "always", false: "perhaps"}[certain]
		e.Guards = append(e.Guards, v)
		switch {
		case v.Status == 0:
			statuses[0] = true
		case v.ReportOnly:
			reported, statuses[0] = true, true
		case certain && refused == "" && !depends:
			refused, handed = strconv.Itoa(v.Status), g.ErrorRoutes
		default:
			statuses[v.Status] = true
			depends, handed = true, handed || g.ErrorRoutes && refused == ""
		}
		return true
	})
	if depends && refused == "" && len(statuses) == 1 && !statuses[0] && s.guards.always(routed) {
		depends, refused = false, strconv.Itoa(e.Guards[0].Status) // whichever runs
	}
	return refused, depends, reported, handed
}

// StrictSNIHostRefuses tells whether Caddy's own check, which needs no module of
// connreuse, refuses a request for host on a connection with that SNI.
func StrictSNIHostRefuses(srv *caddyhttp.Server, sni, host string) bool {
	return srv.StrictSNIHost != nil && *srv.StrictSNIHost && !strings.EqualFold(sni, hostname.Routed(host))
}

// errorRoutesDo says in words what error routes do with a refusal of a request for
// host; handed: they are asked.
func (s *Snapshot) errorRoutesDo(host string, handed bool) string {
	switch {
	case !handed:
		return "are not asked: misdirected answers at once"
	case s.errorsChange(host):
		return "may give the refusal another status"
	case s.guards.errors == nil:
		return "there are none: the client gets the refusal"
	}
	return "keep the status of the refusal"
}
