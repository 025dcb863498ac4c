package integration

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// A defaultCaddy is one as people run it, HTTP/3 on: four hosts, one certificate for
// all, one address. A page of the first host, images of all.
type defaultCaddy struct {
	// gates are the directives in the sites a to d; empty is none.
	gates  [4]string
	origin string // block of the listener wrapper; "-" is no wrapper
}

const (
	gateSNI         = "misdirected"
	gateCertificate = "misdirected {\n\t\tscope certificate\n\t}"
	gateKeepsAltSvc = "misdirected {\n\t\talt_svc keep\n\t}"
	imagesPerHost   = 3
)

func all(gate string) [4]string { return [4]string{gate, gate, gate, gate} }

// caddyfile returns what a Caddyfile has beyond global options, for a page that
// visits itself so many times.
func (d defaultCaddy) caddyfile(visits int) (options, sites string) {
	options = "servers {\n\t\tstrict_sni_host insecure_off\n"
	if d.origin != "-" {
		options += "\t\tlistener_wrappers {\n\t\t\torigin {\n\t\t\t\t" + d.origin + "\n\t\t\t}\n\t\t}\n"
	}
	options += "\t}"
	for i, host := range fourHosts {
		sites += fmt.Sprintf(`
%s {
	log
	%s
	%s
}
`, host, d.gates[i], imageSite(visits))
	}
	return options, sites + "\n*.site.test {\n\trespond other\n}\n"
}

// imageSite is what a site's block says that has a page with images of four hosts.
func imageSite(visits int) string { return browser.ImageSite(fourHosts, imagesPerHost, visits) }

// visits lets a browser visit the page so many times.
func (d defaultCaddy) visits(t *testing.T, b browser.Browser, n int) ([]browser.Visit, *caddy) {
	t.Helper()
	return d.visitsAnd(t, b, n, func(*caddy, []browser.Visit) {})
}

// visitsAnd lets a browser visit the page so many times, and calls seen again and
// again with what it has done so far.
func (d defaultCaddy) visitsAnd(t *testing.T, b browser.Browser, n int, seen func(*caddy, []browser.Visit)) ([]browser.Visit, *caddy) {
	t.Helper()
	needBrowser(t, b)
	if b.Name == browser.Firefox.Name {
		needs.Root(t, "a hosts file for Firefox alone")
	}
	options, sites := d.caddyfile(n)
	c := startCaddy(t, options, sites, fourHosts[:1])
	hosts := make(map[string]string)
	for _, host := range fourHosts {
		hosts[host] = "127.0.0.1"
	}
	ctx, done := browsing(t)
	defer done()
	log := func() string {
		seen(c, browser.ReadVisits(c.log.String(), n))
		return c.log.String()
	}
	visits, err := b.Visits(ctx, browser.Options{Home: t.TempDir(), Root: c.root(), Hosts: hosts}, "https://"+fourHosts[0]+":"+c.port+"/page?visit=1", n, log)
	for i, v := range visits {
		t.Logf("visit %d: %d connections, by protocol %v, 421s %v, %d images broken", i+1, len(v.Connections), v.Protocols, v.Refused, v.Broken)
	}
	if err != nil {
		t.Fatal(err)
	}
	return visits, c
}

// sums of visits.
type sums struct{ refused, refusedHTTP3, broken, onHTTP3 int }

func sum(visits []browser.Visit) (s sums) {
	for _, v := range visits {
		s.refused += v.Statuses[421]
		s.refusedHTTP3 += v.Refused["HTTP/3.0"]
		s.onHTTP3 += v.Protocols["HTTP/3.0"]
		s.broken += v.Broken
	}
	return s
}

// answered fails unless each visit got all its images.
func answered(t *testing.T, visits []browser.Visit) {
	t.Helper()
	for i, v := range visits {
		want := map[string]int{"a.site.test": imagesPerHost + 1, "b.site.test": imagesPerHost, "c.site.test": imagesPerHost, "d.site.test": imagesPerHost}
		if v.Broken != 0 || !maps.Equal(v.Answered, want) {
			t.Errorf("visit %d: answered %v, want %v; %d images broken", i+1, v.Answered, want, v.Broken)
		}
	}
}

// On a default Caddy, gates and frames together keep Firefox from every 421, also
// where it could use HTTP/3.
func TestFirefoxOnDefaultCaddy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		caddy defaultCaddy
		http3 bool
	}{
		{"all guarded by SNI", defaultCaddy{gates: all(gateSNI)}, false},
		{"all by certificate", defaultCaddy{gates: all(gateCertificate)}, true},
		{"all by certificate, frames on HTTP/3 as well", defaultCaddy{gates: all(gateCertificate), origin: "origins sites\n\t\t\t\thttp3"}, true},
		{"one of four by SNI, the others by certificate", defaultCaddy{gates: [4]string{gateCertificate, gateCertificate, gateCertificate, gateSNI}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			visits, _ := test.caddy.visits(t, browser.Firefox, 12)
			answered(t, visits)
			if got := sum(visits); got.refused != 0 || (got.onHTTP3 > 0) != test.http3 {
				t.Errorf("%+v, want no 421, and requests on HTTP/3: %t", got, test.http3)
			}
		})
	}
}

// Alt-Svc is about the host (RFC 7838 section 2): who is told of HTTP/3 on another
// connection opens one for that host, where the guarded one would be refused.
func TestAltSvcIsOfTheHost(t *testing.T) {
	options, sites := defaultCaddy{gates: [4]string{gateCertificate, gateCertificate, gateCertificate, gateSNI}}.caddyfile(1)
	c := startCaddy(t, options, sites, fourHosts)
	for _, sni := range fourHosts {
		got := dialH2(t, c.addr, clientTLS(sni)).do(ask{authority: "b.site.test"})
		if altSvc := got.header.Get("Alt-Svc"); got.status != 200 || altSvc != "clear" {
			t.Errorf("SNI %s: %v with Alt-Svc %q, want clear", sni, got, altSvc)
		}
	}
}

// Chromium pools QUIC connections by address and certificate, and comes back to them
// after a 421. Sites that would be refused there, or refuse others, offer no HTTP/3:
// what is left is the first burst of each HTTP/2 connection.
func TestChromiumOnDefaultCaddy(t *testing.T) {
	t.Parallel()
	others := (len(fourHosts) - 1) * imagesPerHost
	for _, test := range []struct {
		name  string
		caddy defaultCaddy
		http3 bool // sites offer it
		most  int  // 421s of a visit, on HTTP/2
		warns bool // of open sites; the one for the wildcard has no gate
	}{
		{"all guarded by SNI", defaultCaddy{gates: all(gateSNI)}, false, others, true},
		{"all by certificate", defaultCaddy{gates: all(gateCertificate)}, true, 0, false},
		{"one of four by SNI, the others open", defaultCaddy{gates: [4]string{"", "", "", gateSNI}}, true, imagesPerHost, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			visits, c := test.caddy.visits(t, browser.Chromium, 4)
			answered(t, visits)
			for i, v := range visits {
				if v.Statuses[421] > test.most || i > 0 && v.Refused["HTTP/3.0"] > 0 {
					t.Errorf("visit %d: 421s %v; want at most %d, and from the second visit on none on HTTP/3", i+1, v.Refused, test.most)
				}
			}
			if got := sum(visits); (got.onHTTP3 > 0) != test.http3 {
				t.Errorf("%d requests on HTTP/3, want some: %t", got.onHTTP3, test.http3)
			}
			if warned := c.logged("put misdirected { scope certificate } into them"); (len(warned) > 0) != test.warns {
				t.Errorf("warned: %v, want some: %t", warned, test.warns)
			}
		})
	}
}

// Where the sites go on offering HTTP/3, Chromium meets the same 421s at every visit,
// and without frames Firefox meets some: this is what the tests above would see.
func TestBrowsersWithoutRemedy(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		browser browser.Browser
		caddy   defaultCaddy
		visits  int
	}{
		{"Chromium, alt_svc keep", browser.Chromium, defaultCaddy{gates: all(gateKeepsAltSvc)}, 4},
		{"Firefox, no frames", browser.Firefox, defaultCaddy{gates: all(gateSNI), origin: "-"}, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			visits, c := test.caddy.visits(t, test.browser, test.visits)
			last := visits[test.visits-1]
			if warned := len(c.logged("add the origin listener wrapper")) > 0; warned != (test.caddy.origin == "-") {
				t.Errorf("warned that frames are missing: %t", warned)
			}
			if test.browser.Name == browser.Chromium.Name && last.Refused["HTTP/3.0"] == 0 || sum(visits).refused == 0 {
				t.Errorf("%v: nothing to be remedied", last)
			}
		})
	}
}

// Browsers that have learned HTTP/3 of sites that are guarded later recover within
// two visits.
func TestBrowsersUnlearnHTTP3(t *testing.T) {
	t.Parallel()
	const n, before = 8, 3
	for _, b := range []browser.Browser{browser.Firefox, browser.Chromium} {
		t.Run(b.Name, func(t *testing.T) {
			changed := 0 // visits that had begun when the gates were there
			visits, _ := defaultCaddy{gates: all(gateCertificate)}.visitsAnd(t, b, n, func(c *caddy, visits []browser.Visit) {
				if changed > 0 || !visits[before-1].Done {
					return
				}
				options, sites := defaultCaddy{gates: all(gateSNI)}.caddyfile(n)
				resp, err := http.Post(c.admin+"/load", "text/caddyfile", strings.NewReader(globals(c.port, strings.TrimPrefix(c.admin, "http://"), options)+sites))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("reload: %s", resp.Status)
				}
				for _, v := range browser.ReadVisits(c.log.String(), n) {
					if len(v.Connections) > 0 {
						changed++
					}
				}
			})
			if sum(visits[:before]).onHTTP3 == 0 {
				t.Error("the browser had not learned HTTP/3, so this shows nothing")
			}
			// The two visits after the one that was under way may still meet 421s.
			recovered := visits[min(changed+2, n):]
			if len(recovered) < 2 {
				t.Fatalf("%d visits had begun when Caddy was reloaded", changed)
			}
			answered(t, recovered)
			got := sum(recovered)
			if got.refusedHTTP3 != 0 || b.Name == browser.Firefox.Name && got.refused != 0 {
				t.Errorf("after two visits: %+v", got)
			}
		})
	}
}
