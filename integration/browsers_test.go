package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/testcaddy"
)

// A scenario is a page that asks some hosts, one after the other, and what it
// is served by.
type scenario struct {
	gate   string // block of misdirected
	origin string // block of the origin listener wrapper; "-" is no wrapper
	hosts  []string
	rounds int
	method string
	// addresses of the hosts: all on 127.0.0.1, or each on one of its own
	apart bool
}

// A visit is what a browser did, by the access log.
type visit struct {
	connections map[string][]string // hosts asked for, by the client's port
	statuses    map[int]int
	answered    map[string]int // 200s, by host
}

func (v visit) String() string {
	return fmt.Sprintf("%d connections %v, statuses %v", len(v.connections), v.connections, v.statuses)
}

// browse starts Caddy and lets a browser visit a page there that runs the
// scenario.
func browse(t *testing.T, start func(t *testing.T, c *caddy, home, url string, addresses map[string]string) *exec.Cmd, s scenario) visit {
	t.Helper()
	var addresses []string
	byHost := make(map[string]string)
	for i, host := range s.hosts {
		address := "127.0.0.1"
		if s.apart {
			address = fmt.Sprintf("127.0.0.%d", i+1)
		}
		byHost[host] = address
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}

	options := strictOff
	if s.origin != "-" {
		options = fmt.Sprintf("servers {\n\t\tstrict_sni_host insecure_off\n\t\tprotocols h1 h2\n\t\tlistener_wrappers {\n\t\t\torigin {\n\t\t\t\t%s\n\t\t\t}\n\t\t}\n\t}", s.origin)
	} else {
		options = "servers {\n\t\tstrict_sni_host insecure_off\n\t\tprotocols h1 h2\n\t}"
	}
	script := fmt.Sprintf(`<!doctype html><script>
(async () => {
	for (let round = 0; round < %d; round++)
		for (const host of %s)
			await fetch("https://" + host + ":" + location.port + "/round-" + round, {method: %q, mode: "no-cors", credentials: "include", body: %s});
	await fetch("/done", {method: "POST"});
})();
</script>`, s.rounds, mustJSON(s.hosts), cmp.Or(s.method, "GET"), map[bool]string{true: `"x".repeat(3000000)`, false: "undefined"}[s.method == "POST"])
	sites := ""
	for _, host := range slices.Sorted(maps.Keys(byHost)) {
		sites += fmt.Sprintf(`
%s {
	log
	bind %s
	misdirected {
		%s
	}
	header Cache-Control no-store
	handle /page {
		header Content-Type text/html
		respond <<PAGE
			%s
			PAGE
	}
	respond ok
}
`, host, strings.Join(addresses, " "), s.gate, strings.ReplaceAll(script, "\n", "\n\t\t\t"))
	}
	sites += fmt.Sprintf("\n*.site.test {\n\tbind %s\n\tmisdirected\n}\n", strings.Join(addresses, " "))
	c := startCaddy(t, options, sites, s.hosts[:1])

	home := t.TempDir()
	browser := start(t, c, home, "https://"+s.hosts[0]+":"+c.port+"/page", byHost)
	var output logBuffer
	browser.Stdout, browser.Stderr = &output, &output
	browser.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := browser.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- browser.Wait() }()
	defer func() {
		_ = syscall.Kill(-browser.Process.Pid, syscall.SIGKILL) // the browser and its helpers
		<-done
		if t.Failed() {
			output.dump(t)
		}
	}()

	deadline := time.Now().Add(60 * time.Second)
	for {
		v := visited(c)
		if v.answered["done"] > 0 {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("the page did not finish: %v", v)
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the browser ended: %v", err)
		case <-time.After(100 * time.Millisecond): // polls the log of another process
		}
	}
}

// visited reads the access log.
func visited(c *caddy) visit {
	v := visit{make(map[string][]string), make(map[int]int), make(map[string]int)}
	for _, line := range c.logged("handled request") {
		request := line["request"].(map[string]any)
		uri, host := fmt.Sprint(request["uri"]), strings.Split(fmt.Sprint(request["host"]), ":")[0]
		status := int(line["status"].(float64))
		if uri == "/done" {
			v.answered["done"]++
		}
		if !strings.HasPrefix(uri, "/round-") && uri != "/page" {
			continue // a favicon
		}
		port := fmt.Sprint(request["remote_port"])
		if !slices.Contains(v.connections[port], host) {
			v.connections[port] = append(v.connections[port], host)
		}
		v.statuses[status]++
		if status == 200 {
			v.answered[host]++
		}
	}
	return v
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// trust makes Caddy's CA trusted in a certificate database of NSS.
func trust(t *testing.T, c *caddy, db string) {
	t.Helper()
	certutil := testcaddy.Need(t, "certutil", "libnss3-tools")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(c.dir, "caddy", "pki", "authorities", "local", "root.crt")
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test", "-t", "C,,", "-i", root}} {
		if out, err := exec.Command(certutil, append(args, "-d", "sql:"+db)...).CombinedOutput(); err != nil {
			t.Fatalf("certutil %v: %v: %s", args, err, out)
		}
	}
}

// firefox runs in a mount namespace of its own, with a hosts file of its own.
func firefox(t *testing.T, c *caddy, home, url string, addresses map[string]string) *exec.Cmd {
	t.Helper()
	program := testcaddy.Need(t, "firefox-esr", "firefox-esr")
	unshare := testcaddy.Need(t, "unshare", "util-linux")
	if os.Geteuid() != 0 {
		t.Skip("a hosts file for Firefox alone takes root")
	}
	profile := filepath.Join(home, "profile")
	trust(t, c, profile)
	const prefs = `user_pref("network.dns.disableIPv6", true);
user_pref("network.trr.mode", 5);
user_pref("network.http.http3.enable", false);
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
	hosts := "127.0.0.1 localhost\n"
	for host, address := range addresses {
		hosts += address + " " + host + "\n"
	}
	for name, text := range map[string]string{filepath.Join(profile, "user.js"): prefs, filepath.Join(home, "hosts"): hosts} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(unshare, "-m", "sh", "-c", `mount --bind "$1" /etc/hosts && exec "$2" --headless --no-remote --profile "$3" "$4"`, "sh", filepath.Join(home, "hosts"), program, profile, url)
	cmd.Env = append(os.Environ(), "HOME="+home)
	return cmd
}

func chromium(t *testing.T, c *caddy, home, url string, addresses map[string]string) *exec.Cmd {
	t.Helper()
	program := testcaddy.Need(t, "chromium", "chromium")
	trust(t, c, filepath.Join(home, ".pki", "nssdb"))
	var rules []string
	for host, address := range addresses {
		rules = append(rules, "MAP "+host+" "+address)
	}
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir="+filepath.Join(home, "profile"), "--host-resolver-rules="+strings.Join(rules, ","), url)
	cmd.Env = append(os.Environ(), "HOME="+home)
	return cmd
}

var (
	threeHosts = []string{"a.site.test", "b.site.test", "c.site.test"}
	fourHosts  = []string{"a.site.test", "b.site.test", "c.site.test", "d.site.test"}
)

// Firefox obeys ORIGIN frames: they spare it connections, and 421s.
func TestFirefox(t *testing.T) {
	for _, test := range []struct {
		name string
		scenario
		check func(v visit) bool
		want  string
	}{
		{"hosts at different addresses, without frames", scenario{gate: "scope certificate", origin: "-", hosts: fourHosts, rounds: 2, apart: true},
			func(v visit) bool { return len(v.connections) == 4 && v.statuses[421] == 0 }, "4 connections"},
		{"hosts at different addresses, with frames", scenario{gate: "scope certificate", hosts: fourHosts, rounds: 2, apart: true},
			func(v visit) bool { return len(v.connections) == 1 && v.statuses[421] == 0 }, "1 connection"},
		{"scope sni, without frames", scenario{gate: "scope sni", origin: "-", hosts: threeHosts, rounds: 6},
			func(v visit) bool { return v.statuses[421] >= 3 && len(v.connections) > 3 }, "421s and more than 3 connections"},
		{"scope sni, with frames", scenario{gate: "scope sni", hosts: threeHosts, rounds: 6},
			func(v visit) bool { return v.statuses[421] == 0 && len(v.connections) == 3 }, "3 connections and no 421"},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := browse(t, firefox, test.scenario)
			t.Log(v)
			if !test.check(v) {
				t.Errorf("%v, want %s", v, test.want)
			}
			checkAnswers(t, v, test.scenario)
		})
	}
}

// A name that is listed, but not covered by the certificate, is not used.
func TestFirefoxListedNameOutsideCertificate(t *testing.T) {
	s := scenario{gate: "scope certificate", hosts: []string{"a.site.test", "b.site.test", "other.test"}, rounds: 2, apart: true}
	s.origin = "origins https://b.site.test:{$PORT} https://other.test:{$PORT}"
	v := browse(t, firefox, s)
	t.Log(v)
	for port, hosts := range v.connections {
		if slices.Contains(hosts, "other.test") && len(hosts) > 1 {
			t.Errorf("connection %s carried %v", port, hosts)
		}
	}
	if len(v.connections) != 2 || v.statuses[421] != 0 {
		t.Errorf("%v, want 2 connections and no 421", v)
	}
	checkAnswers(t, v, s)
}

// Chromium ignores ORIGIN frames in HTTP/2 and asks again after a 421, for any
// method.
func TestChromium(t *testing.T) {
	for _, test := range []struct {
		name string
		scenario
		same bool // the counts are the same with frames and without
	}{
		{"hosts at different addresses", scenario{gate: "scope certificate", hosts: fourHosts, rounds: 2, apart: true}, true},
		{"one address", scenario{gate: "scope certificate", hosts: fourHosts, rounds: 2}, true},
		{"421 and GET", scenario{gate: "scope sni", hosts: threeHosts, rounds: 2}, false},
		{"421 and POST of 3 MB", scenario{gate: "scope sni", hosts: threeHosts, rounds: 2, method: "POST"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			with := browse(t, chromium, test.scenario)
			test.scenario.origin = "-"
			without := browse(t, chromium, test.scenario)
			t.Logf("with frames: %v; without: %v", with, without)
			checkAnswers(t, with, test.scenario)
			checkAnswers(t, without, test.scenario)
			if test.same && (len(with.connections) != len(without.connections) || with.statuses[421]+without.statuses[421] != 0) {
				t.Errorf("with frames: %v; without: %v; want the same", with, without)
			}
			if !test.same && (with.statuses[421] == 0 || without.statuses[421] == 0) {
				t.Errorf("no 421, so this shows nothing: %v; %v", with, without)
			}
		})
	}
}

// checkAnswers: whatever it took, each request was answered 200 once.
func checkAnswers(t *testing.T, v visit, s scenario) {
	t.Helper()
	for i, host := range s.hosts {
		want := s.rounds
		if i == 0 {
			want++ // the page
		}
		if v.answered[host] != want {
			t.Errorf("%s answered %d requests, want %d: %v", host, v.answered[host], want, v)
		}
	}
}
