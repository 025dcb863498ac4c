package authority

import (
	"crypto/x509"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Trust in a client certificate was decided when its connection began, perhaps under an
// older configuration that trusted other CAs.

// A trust says whether the CAs of a server's TLS policies have signed what connections
// show.
type trust struct {
	pools []*x509.CertPool // by policy; nil for those of the system
	known *cache[trusted, bool]
}

// A trusted is a certificate that a pool is asked about: a CA, or a client's own one.
// Of a CA it is kept only that it is in the pool.
type trusted struct {
	pool *x509.CertPool
	cert *x509.Certificate
}

// newTrust is for policies that are provisioned.
func newTrust(srv *caddyhttp.Server) *trust {
	t := &trust{known: newCache[trusted, bool](1024)}
	for _, policy := range srv.TLSConnPolicies {
		var pool *x509.CertPool
		if policy.TLSConfig != nil {
			pool = policy.TLSConfig.ClientCAs
		}
		t.pools = append(t.pools, pool)
	}
	return t
}

// has tells whether a CA in the pool has signed a client certificate, whose chain ends in
// a CA that some pool had. As a rule that one is in this pool, which is quick to tell.
func (t *trust) has(pool *x509.CertPool, chain []*x509.Certificate) bool {
	ca, client := trusted{pool, chain[len(chain)-1]}, trusted{pool, chain[0]}
	for _, of := range [...]trusted{ca, client} {
		if signed := t.known.get(of); signed != nil {
			return *signed
		}
	}
	signed := true
	with := pool.Clone()
	with.AddCert(ca.cert)
	if with.Equal(pool) {
		t.known.swap(ca, nil, &signed)
		return true
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	signed = err == nil
	t.known.swap(client, nil, &signed)
	return signed
}

// Signed tells whether client certificates for host, if they must be signed, are to be
// signed by a CA that one of these chains ends in.
func (s *Snapshot) Signed(chains [][]*x509.Certificate, host string) bool {
	signed := true
	var c cursor
	s.policies.findHost(&c, host)
	for r, ok := c.next(); ok; r, ok = c.next() {
		pool := s.trust.pools[r.index]
		if p := &s.policies.list[r.index]; !p.signed || p.drop {
			continue
		}
		signed = false
		for _, chain := range chains {
			if pool == nil || s.trust.has(pool, chain) {
				return true
			}
		}
	}
	return signed
}
