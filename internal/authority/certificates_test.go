package authority

import (
	"crypto/x509"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddyserver/caddy/v2/modules/caddytls"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

func TestCertificateCovers(t *testing.T) {
	apps := testcaddy.TLSApp(t, `{"policies":[{"subjects":["managed.c1.test"],"get_certificate":[{"via":"tailscale"}]},{"subjects":["other.c1.test"]}]}`,
		[]string{"a.c1.test", "b.c1.test", "10.0.0.1", "::1"},
		[]string{"*.w.c1.test", "x.c1.test"},
		[]string{"y.w.c1.test"},
		[]string{"two.c1.test", "one.c1.test", "three.c1.test"},
		[]string{"two.c1.test", "one.c1.test", "four.c1.test"},
		[]string{"managed.c1.test"},
		[]string{"UPPER.c1.test", "*.UPPER.c1.test"},
		[]string{"*.tag.c1.test", "q.c1.test"},
		[]string{"one.tag.c1.test", "*.tag.c1.test"},
		[]string{"*.*.deep.c1.test", "*.deep.c1.test"},
		[]string{"f*.part.c1.test", "z.c1.test"},
	)
	ctx := testcaddy.Provision(t, `{`+apps+`}`, "")
	loaded, err := ctx.App("tls")
	if err != nil {
		t.Fatal(err)
	}
	ps, err := copyPolicies(readPolicies(t, `[
		{"match":{"sni":["sel.tag.c1.test","one.tag.c1.test"]},"certificate_selection":{"any_tag":["*.tag.c1.test"]}},
		{"match":{"sni":["none.tag.c1.test"]},"certificate_selection":{"any_tag":["no such tag"]}},
		{"match":{"sni":["two.c1.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},"certificate_selection":{"any_tag":["no such tag"]}},
		{}]`))
	if err != nil {
		t.Fatal(err)
	}
	snap := &Snapshot{policies: ps, certificates: newCertificates(ps, loaded.(*caddytls.TLS))}

	for _, test := range []struct {
		what      string
		sni, host string
		want      bool
	}{
		{"its own name", "a.c1.test", "a.c1.test", true},
		{"another name of the certificate", "a.c1.test", "b.c1.test", true},
		{"an address of the certificate", "a.c1.test", "10.0.0.1", true},
		{"an IPv6 address of the certificate", "a.c1.test", "::1", true},
		{"another address", "a.c1.test", "10.0.0.2", false},
		{"a name of another certificate", "a.c1.test", "x.c1.test", false},
		{"the common name", "a.c1.test", "common.test", false},
		{"capitals in the certificate", "upper.c1.test", "k.upper.c1.test", true},

		// M17 RFC 9525 6.3
		{"under the wildcard", "k.w.c1.test", "l.w.c1.test", true},
		{"the exact name beside the wildcard", "k.w.c1.test", "x.c1.test", true},
		{"the wildcard's parent", "k.w.c1.test", "w.c1.test", false},
		{"two labels under the wildcard", "k.w.c1.test", "m.l.w.c1.test", false},
		{"part of a label", "z.c1.test", "fx.part.c1.test", false},
		{"two wildcards", "a.b.deep.c1.test", "c.d.deep.c1.test", false},

		{"an exact certificate goes before the wildcard", "y.w.c1.test", "y.w.c1.test", true},
		{"so what the wildcard covers is not", "y.w.c1.test", "k.w.c1.test", false},
		{"both certificates for the name cover it", "two.c1.test", "one.c1.test", false}, // a policy that may be selected has none
		{"both certificates for the name cover it", "one.c1.test", "two.c1.test", true},
		{"only one of them does", "one.c1.test", "three.c1.test", false},
		{"only the other does", "one.c1.test", "four.c1.test", false},
		{"a manager may know better", "managed.c1.test", "managed.c1.test", false},
		{"no certificate", "nowhere.c1.test", "a.c1.test", false},
		{"no certificate for itself", "nowhere.c1.test", "nowhere.c1.test", false},
		{"no name", "", "a.c1.test", false},

		{"selected by tag from the wildcard form", "sel.tag.c1.test", "q.c1.test", true},
		{"the exact one does not have the tag", "one.tag.c1.test", "q.c1.test", true},
		{"no certificate has the tag", "none.tag.c1.test", "q.c1.test", false},
	} {
		if got := snap.CertificateCovers(test.sni, test.host); got != test.want {
			t.Errorf("%s: what is presented for %q covers %q: %t, want %t", test.what, test.sni, test.host, got, test.want)
		}
	}

	if n := testing.AllocsPerRun(100, func() {
		snap.CertificateCovers("a.c1.test", "b.c1.test")
		snap.CertificateCovers("a.c1.test", "x.c1.test")
		snap.CertificateCovers("k.w.c1.test", "l.w.c1.test")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Of several certificates for a name, Caddy presents one that is not over. What is over
// counts where there is no other.
func TestCertificatesThatAreOverAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps, err := copyPolicies(readPolicies(t, `[{"match":{"sni":["tagged.test"]},"certificate_selection":{"any_tag":["tag"]}},{}]`))
		if err != nil {
			t.Fatal(err)
		}
		cs := newCertificates(ps, new(caddytls.TLS))
		now := time.Now()
		valid := func(from, to time.Duration, others ...string) certmagic.Certificate {
			cert := certmagic.Certificate{Names: []string{"a.test", "tagged.test"}, Tags: []string{"tag"}}
			cert.Leaf = &x509.Certificate{DNSNames: append(others, cert.Names...), NotBefore: now.Add(from), NotAfter: now.Add(to)}
			return cert
		}
		certs := []certmagic.Certificate{valid(-2*time.Hour, -time.Hour, "old.test"), valid(-time.Hour, time.Hour, "b.test"), valid(time.Hour, 2*time.Hour, "new.test")}
		cs.find = func(string) []certmagic.Certificate { return certs }
		for _, want := range []string{"b.test", "new.test", ""} {
			for _, sni := range []string{"a.test", "tagged.test"} {
				for _, host := range []string{"old.test", "b.test", "new.test"} {
					if got := cs.cover(sni, host); got != (host == want) {
						t.Errorf("after %v, what is presented for %s covers %s: %t", time.Since(now), sni, host, got)
					}
				}
			}
			time.Sleep(time.Hour + time.Minute)
			synctest.Wait()
		}
	})
}

// A replaced certificate counts after at most a second, and a flood of made-up
// names does not grow anything.
func TestCertificatesAreReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads := 0
		names := []string{"a.test", "b.test"}
		ps, err := copyPolicies(readPolicies(t, `[{}]`))
		if err != nil {
			t.Fatal(err)
		}
		cs := newCertificates(ps, new(caddytls.TLS))
		leaf := &x509.Certificate{DNSNames: names}
		cs.find = func(string) []certmagic.Certificate {
			reads++
			cert := certmagic.Certificate{Names: names}
			cert.Leaf = leaf
			return []certmagic.Certificate{cert}
		}

		for range 5 {
			if !cs.cover("a.test", "b.test") {
				t.Fatal("b.test is not covered")
			}
		}
		if reads != 1 {
			t.Errorf("%d reads within a second, want 1", reads)
		}
		time.Sleep(freshFor)
		synctest.Wait()
		if !cs.cover("a.test", "b.test") || reads != 2 {
			t.Errorf("after a second: %d reads, want 2", reads)
		}
		names = []string{"a.test", "c.test"}
		leaf = &x509.Certificate{DNSNames: names}
		time.Sleep(freshFor)
		synctest.Wait()
		if cs.cover("a.test", "b.test") || !cs.cover("a.test", "c.test") {
			t.Error("the replaced certificate still counts")
		}

		for i := range 10_000 {
			cs.cover("made-up-"+strings.Repeat("x", i%20)+strconv.Itoa(i), "b.test")
		}
		if !cs.cover("a.test", "c.test") {
			t.Error("made-up names changed an answer")
		}
	})
}
