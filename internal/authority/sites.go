package authority

// A Site is a host that is named exactly, and what its certificate makes of it.
type Site struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	// Whether the server speaks HTTP/3.
	HTTP3 bool `json:"http3"`
	// "yes", "no" or "unknown": whether certificates lead requests for the host to
	// connections where they are refused, or requests for others to its own. Unknown:
	// Caddy's cache has no certificate for the host.
	Refused string `json:"refused"`
	// One such request.
	RefusedSNI  string `json:"refused_sni,omitempty"`
	RefusedHost string `json:"refused_host,omitempty"`
	// "clear", "depends" or "kept": whether HTTP/3 is withdrawn for that. It is by a
	// guard of the site with alt_svc auto; depends: not every request passes one.
	AltSvc string `json:"alt_svc"`
	// Other hosts of the server that its certificate covers, so that browsers use its
	// connections for them; at most 20, and how many more there are.
	Covers     []string `json:"covers"`
	CoversMore int      `json:"covers_more"`
}

// Sites describes the first sites of the server in alphabetical order, and says how
// many more there are.
func (s *Server) Sites(most int) (sites []Site, more int) {
	snap := s.Snapshot()
	names := snap.hosts.all
	for _, name := range names[:min(most, len(names))] {
		site := Site{Server: s.Name(), Name: name, HTTP3: s.HTTP3(), Covers: []string{}}
		answer := snap.Astray(name)
		site.Refused, site.RefusedSNI, site.RefusedHost = answer.Answer.String(), answer.SNI, answer.Host
		site.AltSvc = "kept"
		if site.HTTP3 && answer.Answer == Yes {
			site.AltSvc = snap.altSvc(name)
		}
		shown := snap.certificates.present(name)
		for _, other := range names {
			switch {
			case other == name || !shown.cover(other):
			case len(site.Covers) < mostNamed:
				site.Covers = append(site.Covers, other)
			default:
				site.CoversMore++
			}
		}
		sites = append(sites, site)
	}
	return sites, len(names) - len(sites)
}

// altSvc says what guards make of HTTP/3 for a host that it leads to refusals.
func (s *Snapshot) altSvc(host string) string {
	clear, perhaps, keeps := false, false, false
	s.guards.each(host, func(g *Guard, certain bool) bool {
		keeps = keeps || g.KeepsAltSvc
		perhaps = perhaps || !g.KeepsAltSvc
		clear = clear || certain && !g.KeepsAltSvc
		return true
	})
	switch {
	case clear || perhaps && !keeps && s.guards.always(host):
		return "clear"
	case perhaps:
		return "depends"
	}
	return "kept"
}
