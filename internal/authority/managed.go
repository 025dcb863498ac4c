package authority

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-connreuse/connreuse/internal/matcher"
)

// A managed knows the certificates that Caddy will have by subject. It obtains them, or
// reads them from its storage, only as it starts, and what has to be said of a config
// is said before.
type managed map[string]certmagic.Certificate

// newManaged foresees which certificates Caddy manages: for the hosts of all servers'
// routes, and a wildcard for the names under it (caddytls TLS.Manage).
func newManaged(servers map[string]*caddyhttp.Server, app *caddytls.TLS) managed {
	subjects := make(map[string]bool)
	for _, srv := range servers {
		auto := srv.AutoHTTPS
		if len(srv.TLSConnPolicies) == 0 || auto != nil && (auto.Disabled || auto.DisableCerts) {
			continue
		}
		for _, host := range routedHosts(srv) {
			if manages(app, auto, host) {
				subjects[strings.ToLower(host)] = true
			}
		}
	}
	forced := forcedNames(app)
	m := make(managed)
	for subject := range subjects {
		_, parent, _ := strings.Cut(subject, ".")
		if strings.HasPrefix(subject, "*.") || !subjects["*."+parent] || forced[subject] {
			m[subject] = certmagic.Certificate{
				Certificate: tls.Certificate{Leaf: &x509.Certificate{DNSNames: []string{subject}}},
				Names:       []string{subject},
			}
		}
	}
	return m
}

// manages tells whether Caddy manages a certificate for a host of a server.
func manages(app *caddytls.TLS, auto *caddyhttp.AutoHTTPSConfig, host string) bool {
	switch {
	case auto != nil && (slices.Contains(auto.Skip, host) || slices.Contains(auto.SkipCerts, host)):
		return false
	case strings.Contains(host, "*") && onDemand(app, host): // each name gets its own
		return false
	}
	return net.ParseIP(host) == nil && certmagic.SubjectQualifiesForCert(host)
}

// find returns the certificate that Caddy will have for a name.
func (m managed) find(name string) []certmagic.Certificate {
	_, parent, _ := strings.Cut(name, ".")
	for _, subject := range []string{name, "*." + parent} {
		if cert, ok := m[subject]; ok {
			return []certmagic.Certificate{cert}
		}
	}
	return nil
}

// routedHosts are the names in the host matchers of a server's routes, where automatic
// HTTPS looks for them.
func routedHosts(srv *caddyhttp.Server) (hosts []string) {
	for _, route := range srv.Routes {
		hosts = append(hosts, matcher.Hosts(route.MatcherSets)...)
	}
	return hosts
}

// onDemand tells whether certificates for a subject are obtained as clients ask for
// them.
func onDemand(app *caddytls.TLS, subject string) bool {
	if app.Automation == nil {
		return false
	}
	for _, policy := range app.Automation.Policies {
		if subjects := policy.Subjects(); len(subjects) == 0 || slices.Contains(subjects, subject) {
			return policy.OnDemand
		}
	}
	return false
}

// forcedNames are those for which Caddy gets a certificate although a wildcard covers
// them (force_automate). Caddy keeps them in a field that is not exported; where it
// keeps them elsewhere, none is known.
func forcedNames(app *caddytls.TLS) map[string]bool {
	names := make(map[string]bool)
	field := reflect.ValueOf(app).Elem().FieldByName("automateNames")
	if field.IsValid() && field.Kind() == reflect.Map && field.Type().Key().Kind() == reflect.String {
		for _, key := range field.MapKeys() {
			names[strings.ToLower(key.String())] = true
		}
	}
	return names
}

// foreseeing returns a snapshot that knows of the certificates in m, too, where there
// are none yet. It shares no answers with s: those that are right before a start are
// wrong soon after it.
func (s *Snapshot) foreseeing(m managed) *Snapshot {
	certificates := *s.certificates
	certificates.kept = newCache[string, presented](512)
	certificates.turns = new(turns)
	certificates.find = func(name string) []certmagic.Certificate {
		if found := s.certificates.find(name); len(found) > 0 {
			return found
		}
		return m.find(name)
	}
	foreseeing := *s
	foreseeing.certificates = &certificates
	foreseeing.refusals = newRefusals(&foreseeing)
	return &foreseeing
}
