package authority

import (
	"cmp"
	"crypto/tls"
	"net"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// unguardedNames returns the names in the host matchers of a server without any
// connreuse module, for which clients are asked for a certificate while
// strict_sni_host is off.
func unguardedNames(srv *caddyhttp.Server) (names []string) {
	if srv.StrictSNIHost == nil || *srv.StrictSNIHost || !slices.ContainsFunc(srv.TLSConnPolicies, asksClients) {
		return nil
	}
	asks, ok := readProvisioned(srv.TLSConnPolicies)
	if !ok {
		asks = askProvisioned(srv.TLSConnPolicies)
	}
	differ := false
	rs := newRoutes(srv.Routes)
	other := ""
	for _, site := range rs.sites {
		patterns, shown := site.patterns, ""
		if patterns == nil {
			if other == "" {
				other = unnamed(&rs.byHost)
			}
			patterns, shown = []string{other}, site.name
		}
		for _, pattern := range patterns {
			asked, open := asks(pattern)
			differ = differ || open
			if asked {
				names = append(names, cmp.Or(shown, pattern))
			}
		}
	}
	if !differ {
		return nil
	}
	return names
}

func asksClients(p *caddytls.ConnectionPolicy) bool {
	return p.ClientAuthentication != nil && p.ClientAuthentication.Active()
}

// A clientAuth tells of a server name whether clients can be asked for a
// certificate, and whether they can be not asked.
type clientAuth func(name string) (asked, open bool)

// readProvisioned reads policies that are provisioned. What they match by is in
// a field that is not exported by then. It returns false where Caddy's types
// have become others than those known here.
func readProvisioned(from caddytls.ConnectionPolicies) (clientAuth, bool) {
	ps := new(policies)
	for _, policy := range from {
		matchers := reflect.ValueOf(policy).Elem().FieldByName("matchers")
		if matchers.Kind() != reflect.Slice {
			return nil, false
		}
		ps.bySNI.addEntry(true)
		hasSNI := false
		for i := range matchers.Len() {
			names := matchers.Index(i)
			if names.Kind() == reflect.Interface {
				names = names.Elem()
			}
			// The type may stand behind a pointer, as modules are made.
			if names.Kind() == reflect.Pointer {
				names = names.Elem()
			}
			if names.Type() == reflect.TypeFor[caddytls.MatchServerName]() {
				hasSNI = true
				for j := range names.Len() {
					if pattern := serverNamePattern(names.Index(j).String()); canMatchSNI(pattern) {
						ps.bySNI.add(pattern, matchers.Len() == 1)
					}
				}
			}
		}
		if !hasSNI {
			ps.bySNI.addAny(matchers.Len() == 0)
		}
	}
	return func(name string) (asked, open bool) {
		var c cursor
		ps.find(&c, name)
		for r, ok := c.next(); ok; r, ok = c.next() {
			policy := from[r.index]
			asked = asked || !policy.Drop && asksClients(policy)
			open = open || !policy.Drop && !asksClients(policy)
		}
		return asked, open
	}, true
}

// serverNamePattern is how Caddy's SNI matcher reads a name of its list.
func serverNamePattern(name string) string {
	return asciiPattern(caddy.NewReplacer().ReplaceAll(name, ""))
}

// askProvisioned lets the policies select for each name. That takes as long as
// there are policies.
func askProvisioned(from caddytls.ConnectionPolicies) clientAuth {
	config := from.TLSConfig(caddy.Context{})
	return func(name string) (asked, open bool) {
		selected, err := config.GetConfigForClient(&tls.ClientHelloInfo{ServerName: name, Conn: somebody{}})
		if err != nil || selected == nil {
			return false, false
		}
		asked = selected.ClientAuth != tls.NoClientCert
		return asked, !asked
	}
}

// somebody is a connection between two addresses that nobody has (RFC 5737), for
// matchers on them.
type somebody struct{ net.Conn }

func (somebody) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }
func (somebody) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1024} }
