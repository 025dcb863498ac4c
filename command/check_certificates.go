package command

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
)

// Caddy obtains certificates only when it starts. So that what they cover is known, a
// certificate of our own stands for each that it would manage. It never leaves the
// process, and is trusted by nobody.

// managed are the subjects of the certificates that Caddy would manage for servers with
// a guard.
func (c *checked) managed() []string {
	subjects := make(map[string]bool)
	for name, srv := range c.servers {
		auto := srv.AutoHTTPS
		if !c.app.Guarded(name) || auto != nil && (auto.Disabled || auto.DisableCerts) {
			continue
		}
		for _, host := range hostsOf(srv) {
			if auto != nil && (slices.Contains(auto.Skip, host) || slices.Contains(auto.SkipCerts, host)) {
				continue
			}
			wildcard := strings.Contains(host, "*")
			if net.ParseIP(host) == nil && certmagic.SubjectQualifiesForCert(host) &&
				len(caddytls.AllMatchingCertificates(host)) == 0 && !(wildcard && c.onDemand(host)) {
				subjects[host] = true
			}
		}
	}
	// Caddy takes a wildcard for the names under it, unless they are forced.
	forced, _ := at(c.apps, "tls", "certificates", "automate").([]any)
	maps.DeleteFunc(subjects, func(subject string, _ bool) bool {
		_, parent, _ := strings.Cut(subject, ".")
		return !strings.HasPrefix(subject, "*.") && subjects["*."+parent] && !slices.Contains(forced, any(subject))
	})
	return slices.Sorted(maps.Keys(subjects))
}

// hostsOf are the names in the host matchers of a server's routes, as Caddy looks for
// those to manage certificates for.
func hostsOf(srv *caddyhttp.Server) (hosts []string) {
	for _, route := range srv.Routes {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				switch m := matcher.(type) {
				case *caddyhttp.MatchHost:
					hosts = append(hosts, *m...)
				case caddyhttp.MatchHost:
					hosts = append(hosts, m...)
				}
			}
		}
	}
	return hosts
}

// onDemand tells whether certificates for a subject are obtained by name when clients
// ask for them.
func (c *checked) onDemand(subject string) bool {
	policies, _ := at(c.apps, "tls", "automation", "policies").([]any)
	for _, policy := range policies {
		subjects, _ := at(policy, "subjects").([]any)
		if len(subjects) == 0 || slices.Contains(subjects, any(subject)) {
			onDemand, _ := at(policy, "on_demand").(bool)
			return onDemand
		}
	}
	return false
}

// standIn adds certificates for subjects to the config.
func (c *checked) standIn(subjects []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	apps, _ := c.apps.(map[string]any)
	certificates := within(within(apps, "tls"), "certificates")
	list, _ := certificates["load_pem"].([]any)
	for i, subject := range subjects {
		template := x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 1), DNSNames: []string{subject},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
		if err != nil {
			return err
		}
		cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		list = append(list, map[string]any{"certificate": cert, "key": keyPEM})
	}
	certificates["load_pem"] = list
	return nil
}

// within returns the object at a key, which is made if it is not there.
func within(object map[string]any, key string) map[string]any {
	inner, ok := object[key].(map[string]any)
	if !ok {
		inner = make(map[string]any)
		object[key] = inner
	}
	return inner
}
