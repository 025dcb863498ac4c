package upstreampool

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// managedCertificate returns what tells client certificates that Caddy manages
// apart: the hashes of those that there are for a name now. Caddy renews them
// without a reload.
func managedCertificate(name string) string {
	certs := caddytls.AllMatchingCertificates(name)
	if len(certs) == 1 {
		return certs[0].Hash()
	}
	var hashes []string
	for _, cert := range certs {
		hashes = append(hashes, cert.Hash())
	}
	slices.Sort(hashes)
	return strings.Join(hashes, ",")
}

// sessionsOf returns the TLS sessions of connections that show a client
// certificate. A resumed session stands for the certificate it was made with, even
// when that has expired, so a renewed certificate starts with none.
func (c *core) sessionsOf(certificate string) tls.ClientSessionCache {
	if certificate == "" {
		return c.sessions
	}
	return sessionsOf{c.sessions, certificate + " "}
}

type sessionsOf struct {
	tls.ClientSessionCache
	prefix string
}

func (s sessionsOf) Get(key string) (*tls.ClientSessionState, bool) {
	return s.ClientSessionCache.Get(s.prefix + key)
}

func (s sessionsOf) Put(key string, session *tls.ClientSessionState) {
	s.ClientSessionCache.Put(s.prefix+key, session)
}

// settingsHash identifies settings: their JSON, and the client certificate in the
// files that it names.
func settingsHash(encoded []byte, cfg *tls.Config) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(encoded)
	for _, cert := range cfg.Certificates {
		for _, der := range cert.Certificate {
			h.Write(der)
		}
	}
	h.Sum(sum[:0])
	return sum
}

// sameRoots tells whether two cores trust the same certificates. Their settings are
// equal, but may name files or places that hold others than before, and a pool of
// certificates can only be compared.
func sameRoots(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}
