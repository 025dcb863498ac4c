package authority

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

// Trust in a certificate holds for the CAs of the configuration that is loaded, and costs
// no memory once it is known.
func TestTrustIsThatOfTheLoadedConfig(t *testing.T) {
	issue := func(issuer *tls.Certificate, isCA bool) tls.Certificate {
		template := testcert.For("client.test")
		template.IsCA, template.BasicConstraintsValid = isCA, true
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		made, err := testcert.Issue(issuer, template)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	old, other := issue(nil, true), issue(nil, true)
	between := issue(&old, true)
	client, plain := issue(&between, false), issue(nil, false)
	pool := func(certs ...tls.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		for _, cert := range certs {
			p.AddCert(cert.Leaf)
		}
		return p
	}
	chain := []*x509.Certificate{client.Leaf, between.Leaf, old.Leaf}
	for _, test := range []struct {
		name  string
		pool  *x509.CertPool
		chain []*x509.Certificate
		want  bool
	}{
		{"the same CA", pool(old), chain, true},
		{"one more CA", pool(other, old), chain, true},
		{"the CA below it", pool(between), chain, true},
		{"another CA", pool(other), chain, false},
		{"no CA", pool(), chain, false},
		{"a certificate that is its own CA", pool(plain), []*x509.Certificate{plain.Leaf}, true},
		{"and is not any more", pool(other), []*x509.Certificate{plain.Leaf}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := &trust{known: newCache[trusted, bool](16)}
			for range 2 { // found, and known
				if got := tr.has(test.pool, test.chain); got != test.want {
					t.Errorf("trusted: %t, want %t", got, test.want)
				}
			}
			if n := testing.AllocsPerRun(100, func() { tr.has(test.pool, test.chain) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}
