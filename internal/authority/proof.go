package authority

import (
	"crypto/tls"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-connreuse/connreuse/internal/hostname"
)

// A Proof is what a connection shows of its client.
type Proof uint8

// The proofs, from the weakest to the strongest.
const (
	NoCert     Proof = iota // no client certificate
	AnyCert                 // one that no trusted CA has signed
	SignedCert              // one that a CA has signed which the connection's policy trusts
	noProof                 // what nobody shows: no connection comes about
)

// ProofOf returns what a connection shows.
func ProofOf(state *tls.ConnectionState) Proof {
	switch {
	case len(state.PeerCertificates) == 0:
		return NoCert
	case len(state.VerifiedChains) == 0:
		return AnyCert
	}
	return SignedCert
}

// Worth returns what a proof that a connection with that SNI shows is worth for host:
// nothing, if a proper connection for host might not have come about with it, since
// certificates are checked there against something else, or are not checked here, or since
// none comes about. What a client has shown for its own name is what it has to show, but
// for a certificate that no CA has signed where the host's policies have all of them
// signed: it was let in under an older configuration.
func (s *Snapshot) Worth(shown Proof, sni, host string) Proof {
	switch ps := s.policies; {
	case shown == AnyCert && ps.all((*policy).bySigned, host):
		return NoCert
	case shown == NoCert || sni == host:
		return shown
	case !ps.connects(host), shown == AnyCert && ps.some((*policy).bySigned, host), ps.some((*policy).byChecks, host) && !ps.same((*policy).byTrust, sni, host):
		return NoCert
	}
	return shown
}

// A matching tells by an error whether a policy does not match a client's hello.
type matching func(*tls.ClientHelloInfo) (*tls.Config, error)

// matchingOf returns those of a server's provisioned policies, nil for a policy that a
// list of names selects by itself. It is nil where that is so for all of them.
func matchingOf(srv *caddyhttp.Server, ps *policies) []matching {
	if !ps.asksAnybody || !ps.looking {
		return nil
	}
	list := make([]matching, len(ps.list))
	for i, policy := range srv.TLSConnPolicies {
		if ps.list[i].looking {
			alone := *policy
			alone.Drop = false // which is an error as well
			list[i] = caddytls.ConnectionPolicies{&alone}.TLSConfig(caddy.Context{}).GetConfigForClient
		}
	}
	return list
}

// AsksSome tells whether policies may ask some clients of a host for a certificate only:
// they look at more than its name. If not, nobody owes one but by [Snapshot.Barred].
func (s *Snapshot) AsksSome() bool { return s.matching != nil }

// Owes tells whether a connection that shows this much would show more if it were a
// proper one for host, from where the request came from. Policies may ask some clients of
// a host only, by their addresses, or by a regular expression for the name. So Caddy's own
// matchers are asked.
//
// A connection that began under an older configuration may show less, and so may one
// whose SNI is spelled in another way than an expression has it.
func (s *Snapshot) Owes(r *http.Request, host string, shown Proof) bool {
	return s.AsksSome() && r != nil && shown < s.owed(r, host)
}

// MayOwe is [Snapshot.Owes] where nobody in particular asks: some client may owe a
// certificate for host on a connection with that SNI that shows none.
func (s *Snapshot) MayOwe(sni, host string) bool {
	return s.AsksSome() && sni != host && s.AsksClientCert(host) && !s.SameClientAuth(sni, host)
}

// owed returns what a client has to show who connects for host from where a request
// came from.
func (s *Snapshot) owed(r *http.Request, host string) Proof {
	if !s.AsksClientCert(host) {
		return NoCert
	}
	name := host
	if hostname.IsIP(host) && r.TLS.ServerName != host {
		name = "" // clients send none (RFC 6066 section 3)
	}
	hello := &tls.ClientHelloInfo{ServerName: name, Conn: ends{request: r}}
	var c cursor
	s.policies.find(&c, name)
	for ref, ok := c.next(); ok; ref, ok = c.next() {
		if matches := s.matching[ref.index]; matches != nil {
			if _, err := matches(hello); err != nil {
				continue
			}
		}
		switch p := &s.policies.list[ref.index]; {
		case p.drop:
			return noProof
		case p.verifies:
			return SignedCert
		case p.requires:
			return AnyCert
		}
		return NoCert
	}
	return noProof
}

// Requires returns what a client has shown on a connection with that SNI, "" if it has
// none, as far as the policy for it requires that. The request says where the client
// is; it may be nil.
func (s *Snapshot) Requires(r *http.Request, sni string) Proof {
	switch {
	case s.AsksSome() && r != nil:
		return s.owed(r, sni)
	case s.VerifiesClientCert(sni):
		return SignedCert
	case s.RequiresClientCert(sni):
		return AnyCert
	}
	return NoCert
}

// ends are the two ends of a request's connection, for matchers on them.
type ends struct {
	net.Conn
	request *http.Request
}

func (e ends) RemoteAddr() net.Addr { return address(e.request.RemoteAddr) }

func (e ends) LocalAddr() net.Addr {
	if local, ok := e.request.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return local
	}
	return address("240.0.0.1:443") // of a request that only the rules are asked about
}

// An address is one as text.
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }
