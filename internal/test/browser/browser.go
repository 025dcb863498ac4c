// Package browser starts Firefox and Chromium for tests and benchmarks, each with
// a profile of its own, and reads from Caddy's log what they did.
package browser

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/test/program"
)

// ErrRoot is the error of starting Firefox with [Options].Hosts, or Chromium with
// [Options].Resolver, as another user than root.
var ErrRoot = errors.New("a hosts file, or resolv.conf, for a browser alone takes root")

// Options are what a browser is started with.
type Options struct {
	// Home is a folder of the browser's own: home directory, profile, trusted CAs.
	Home string
	// Root is the PEM file of a CA to trust.
	Root string
	// Hosts are the IP addresses of names that DNS does not know. Names below
	// localhost need none.
	Hosts map[string]string
	// Names are those of the page's hosts that are not in Hosts. Chromium asks only
	// these and Hosts over HTTP/3.
	Names []string
	// Resolver is a resolv.conf for Chromium alone, which takes root.
	Resolver string
	// NoHTTP3 turns HTTP/3 off, which browsers have on as people use them.
	NoHTTP3 bool
	// Flags go in front of the URL on the command line.
	Flags []string
}

// A Browser is a program that can be started.
type Browser struct {
	Name string
	// Packages are the Debian packages of the programs that starting it takes.
	Packages map[string]string
	command  func(o Options, url string) (*exec.Cmd, error)
}

// The browsers there are.
var (
	Firefox = Browser{
		Name:     "Firefox",
		Packages: map[string]string{"firefox-esr": "firefox-esr", "certutil": "libnss3-tools", "unshare": "util-linux"},
		command:  firefox,
	}
	Chromium = Browser{
		Name:     "Chromium",
		Packages: map[string]string{"chromium": "chromium", "certutil": "libnss3-tools"},
		command:  chromium,
	}
)

// Versions are those of all browsers, as they say them.
func Versions() (versions []string) {
	for _, program := range []string{"firefox-esr", "chromium"} {
		version := program
		if out, err := exec.Command(program, "--version").Output(); err == nil {
			version = strings.TrimSpace(string(out))
		}
		versions = append(versions, version)
	}
	return versions
}

// Open starts the browser with a URL, without a window on any screen.
func (b Browser) Open(o Options, url string) (*program.Program, error) {
	cmd, err := b.command(o, url)
	if err != nil {
		return nil, fmt.Errorf("preparing %s: %w", b.Name, err)
	}
	cmd.Env = append(os.Environ(), "HOME="+o.Home)
	return program.Start(cmd)
}

// trust makes a CA trusted in a certificate database of NSS.
func trust(root, db string) error {
	if err := os.MkdirAll(db, 0o700); err != nil {
		return err
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test", "-t", "C,,", "-i", root}} {
		if out, err := exec.Command("certutil", append(args, "-d", "sql:"+db)...).CombinedOutput(); err != nil {
			return fmt.Errorf("certutil %v: %w: %s", args, err, out)
		}
	}
	return nil
}

// Firefox asks the network for much of its own accord. And it takes HTTP/3 for
// something that a CA of one's own is there to look into.
const prefs = `user_pref("network.http.http3.disable_when_third_party_roots_found", false);
user_pref("network.dns.disableIPv6", true);
user_pref("network.trr.mode", 5);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.http.speculative-parallel-limit", 0);
user_pref("network.prefetch-next", false);
user_pref("network.dns.disablePrefetch", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("app.update.auto", false);
user_pref("app.normandy.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("services.settings.server", "");
user_pref("extensions.getAddons.cache.enabled", false);
`

func firefox(o Options, url string) (*exec.Cmd, error) {
	profile := filepath.Join(o.Home, "profile")
	if err := trust(o.Root, profile); err != nil {
		return nil, err
	}
	text := prefs
	if o.NoHTTP3 {
		text += "user_pref(\"network.http.http3.enable\", false);\n"
	}
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := append([]string{"firefox-esr", "--headless", "--no-remote", "--profile", profile}, o.Flags...)
	args = append(args, url)
	if len(o.Hosts) == 0 {
		return exec.Command(args[0], args[1:]...), nil
	}

	// In a mount namespace of its own, with a hosts file of its own.
	if os.Geteuid() != 0 {
		return nil, ErrRoot
	}
	hosts, file := "127.0.0.1 localhost\n", filepath.Join(o.Home, "hosts")
	for host, address := range o.Hosts {
		hosts += address + " " + host + "\n"
	}
	if err := os.WriteFile(file, []byte(hosts), 0o600); err != nil {
		return nil, err
	}
	return inMounts(file, "/etc/hosts", args), nil
}

// inMounts is a command in a mount namespace of its own, in which a file stands in
// for another.
func inMounts(file, place string, args []string) *exec.Cmd {
	script := `mount --bind "$0" ` + place + ` && exec "$@"`
	return exec.Command("unshare", append([]string{"-m", "sh", "-c", script, file}, args...)...)
}

func chromium(o Options, url string) (*exec.Cmd, error) {
	if err := trust(o.Root, filepath.Join(o.Home, ".pki", "nssdb")); err != nil {
		return nil, err
	}
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + filepath.Join(o.Home, "profile")}
	if o.NoHTTP3 {
		args = append(args, "--disable-quic")
	} else {
		// Over QUIC, Chromium trusts a CA of one's own for the hosts of origins alone
		// that are forced to use QUIC. No page here has an origin on port 9.
		var forced []string
		for _, name := range append(slices.Sorted(maps.Keys(o.Hosts)), o.Names...) {
			forced = append(forced, name+":9")
		}
		args = append(args, "--origin-to-force-quic-on="+strings.Join(forced, ","))
	}
	if len(o.Hosts) > 0 {
		var rules []string
		for host, address := range o.Hosts {
			rules = append(rules, "MAP "+host+" "+address)
		}
		args = append(args, "--host-resolver-rules="+strings.Join(rules, ","))
	}
	args = append(append(args, o.Flags...), url)
	if o.Resolver == "" {
		return exec.Command("chromium", args...), nil
	}
	if os.Geteuid() != 0 {
		return nil, ErrRoot
	}
	return inMounts(o.Resolver, "/etc/resolv.conf", append([]string{"chromium"}, args...)), nil
}
