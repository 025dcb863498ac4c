package origin

import (
	"crypto/tls"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// startCaddyfile runs Caddy with sites on a port, and waits for their certificates.
func startCaddyfile(t *testing.T, global, sites string, names ...string) (port int) {
	t.Helper()
	port = freePort(t)
	file := "{\n\tadmin off\n\tpersist_config off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tdefault_bind 127.0.0.1\n\thttps_port " + strconv.Itoa(port) +
		"\n\tstorage file_system " + t.TempDir() + "\n" + global + "}\n" + sites
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(file), nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, file)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Run(&config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	for _, name := range names {
		poll.Until(t, "the certificate for "+name, func() bool {
			c, err := tls.Dial("tcp", address(port), clientTLS(name, "h2"))
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return port
}

const originBlock = "\tservers {\n\t\tlistener_wrappers {\n\t\t\torigin {\n\t\t\t\tpublic_port 443\n\t\t\t\torigins MODE\n\t\t\t}\n\t\t}\n\t}\n"

// Names under a wildcard certificate are nobody's business, until the operator says
// 'sites'; those that not everybody may ask for stay private then as well.
//
// Checklist: O17.
func TestNamesUnderAWildcard(t *testing.T) {
	const sites = `
*.corp.test {
	tls internal
	@www host www.corp.test
	handle @www {
		respond "public"
	}
	@merger {
		host project-falcon-merger.corp.test
		remote_ip 10.0.0.0/8
	}
	handle @merger {
		respond "secret"
	}
	handle {
		misdirected
		respond 404
	}
}
admin-panel-x7f3.corp.test {
	tls internal
	respond "admin"
}
`
	for mode, want := range map[string][]string{"auto": nil, "sites": {"https://admin-panel-x7f3.corp.test", "https://www.corp.test"}} {
		port := startCaddyfile(t, strings.Replace(originBlock, "MODE", mode, 1), sites, "www.corp.test", "made-up.corp.test")
		if got := dialH2(t, port, "made-up.corp.test").origins(); !slices.Equal(got, want) {
			t.Errorf("origins %s: a stranger learns %v, want %v", mode, got, want)
		}
	}
}

// A certificate may name hosts of other machines: that a catch-all would answer for
// them does not make them this server's.
//
// Checklist: O18, O19.
func TestCatchAllOfAnotherMachine(t *testing.T) {
	cert, key := writeCertificate(t, "a.elsewhere.test", "elsewhere.test", "intranet-hr.test")
	for gate, want := range map[string]string{"": noFrames, "misdirected": ""} {
		port := startCaddyfile(t, strings.Replace(originBlock, "MODE", "auto", 1), strings.NewReplacer("CERT", cert+" "+key, "GATE", gate).Replace(`
a.elsewhere.test {
	tls CERT
	respond "a"
}
https:// {
	tls CERT
	GATE
	respond "nothing here" 404
}
`), "a.elsewhere.test")
		h := dialH2(t, port, "a.elsewhere.test")
		if want == noFrames {
			h.noOrigins("a.elsewhere.test")
			continue
		}
		if got := h.origins(); len(got) != 0 {
			t.Errorf("the catch-all has %q: told %v", gate, got)
		}
	}
}

// default_sni changes nothing between sites that are otherwise equal.
func TestDefaultSNIAmongEqualSites(t *testing.T) {
	cert, key := writeCertificate(t, "a.equal.test", "b.equal.test", "c.equal.test")
	site := " {\n\ttls " + cert + " " + key + "\n\tmisdirected {\n\t\tscope certificate\n\t}\n\trespond ok\n}\n"
	names := []string{"a.equal.test", "b.equal.test", "c.equal.test"}
	port := startCaddyfile(t, "\tdefault_sni a.equal.test\n"+strings.Replace(originBlock, "MODE", "auto", 1), names[0]+site+names[1]+site+names[2]+site, names[0])
	for _, sni := range names {
		h := dialH2(t, port, sni)
		if got := h.origins(); len(got) != 2 {
			t.Errorf("SNI %s: told %v, want the two others", sni, got)
		}
		for _, host := range names {
			h := dialH2(t, port, sni)
			h.get(1, host)
			if status := h.status(1); status != "200" {
				t.Errorf("SNI %s: %s is answered %s", sni, host, status)
			}
		}
	}
}

// writeCertificate returns the files of a certificate and its key.
func writeCertificate(t *testing.T, names ...string) (cert, key string) {
	t.Helper()
	made, err := testcert.Issue(nil, testcert.For(names...))
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := testcert.PEM(made)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, text := range map[string][]byte{cert: certPEM, key: keyPEM} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
