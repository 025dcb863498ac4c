package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

const (
	one = "one.sites.localhost"
	two = "two.sites.localhost"
)

// The story of example/two-sites: what Chromium shows in its second tab, and what
// it sent and got for that, as tshark decodes it.
func TestStoryTwoSites(t *testing.T) {
	needBrowser(t, browser.Chromium)
	needs.Program(t, "haproxy", "haproxy")
	needs.Program(t, "tshark", "tshark")
	needs.Root(t, "capturing packets")

	ports := make(map[string]string)
	var env []string
	for _, name := range []string{"PORT", "UNGUARDED_PORT", "ONE", "TWO"} {
		ports[name] = freePort(t)
		env = append(env, name+"="+ports[name])
	}
	c := startExample(t, "two-sites", env...)
	c.certificates("127.0.0.1:"+ports["PORT"], []string{one})
	haproxy := startHAProxy(t, c, ports)
	capture := startCapture(t, ports["PORT"], ports["UNGUARDED_PORT"], haproxy)
	tabs := openChromium(t, c, "https://"+one+":"+haproxy+"/")

	tests := []struct {
		name, port string
		second     string // title of the second site's tab
		exchanges  []string
	}{
		{"HAProxy", haproxy, "Site one", []string{
			"SNI " + one + " asked for " + one + ": 200",
			"SNI " + one + " asked for " + two + ": 200",
		}},
		{"Caddy without the gate", ports["UNGUARDED_PORT"], "Site one", []string{
			"SNI " + one + " asked for " + one + ": 200",
			"SNI " + one + " asked for " + two + ": 200",
		}},
		{"Caddy with the gate", ports["PORT"], "Site two", []string{
			"SNI " + one + " asked for " + one + ": 200",
			"SNI " + one + " asked for " + two + ": 421",
			"SNI " + two + " asked for " + two + ": 200",
		}},
	}
	for _, test := range tests {
		if got := tabs.title("https://" + one + ":" + test.port + "/"); got != "Site one" {
			t.Errorf("%s: the first tab shows %q", test.name, got)
		}
		if got := tabs.title("https://" + two + ":" + test.port + "/"); got != test.second {
			t.Errorf("%s: the second tab shows %q, want %q", test.name, got, test.second)
		}
	}
	// Packets get into the file some time after they were seen.
	poll.Succeed(t, "the exchanges in the captured packets", func() error {
		exchanges, err := capture.exchanges(tabs.keys)
		if err != nil {
			return err
		}
		for _, test := range tests {
			if !slices.Equal(exchanges[test.port], test.exchanges) {
				return fmt.Errorf("%s: got\n%s\nwant\n%s", test.name, strings.Join(exchanges[test.port], "\n"), strings.Join(test.exchanges, "\n"))
			}
		}
		return nil
	})
}

// startHAProxy starts HAProxy with the certificate of Caddy and returns its port.
func startHAProxy(t *testing.T, c *caddy, ports map[string]string) (port string) {
	t.Helper()
	var both []byte
	for _, suffix := range []string{".crt", ".key"} {
		text, err := os.ReadFile(filepath.Join(c.dir, "caddy", "certificates", "local", "wildcard_.sites.localhost", "wildcard_.sites.localhost"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	certificate, port := filepath.Join(c.dir, "sites.pem"), freePort(t)
	if err := os.WriteFile(certificate, both, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-f", filepath.Join("..", "example", "two-sites", "haproxy.cfg"))
	cmd.Env = append(os.Environ(), "CERTIFICATE="+certificate, "HAPROXY_PORT="+port, "ONE="+ports["ONE"], "TWO="+ports["TWO"])
	start(t, cmd)
	c.certificates("127.0.0.1:"+port, []string{one})
	return port
}

// start starts a program that the test's end ends, and returns what it writes.
func start(t *testing.T, cmd *exec.Cmd) *logBuffer {
	t.Helper()
	output := new(logBuffer)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, output.String())
		}
	})
	return output
}

// A capture is a file that packets on loopback are written to.
type capture struct {
	file string
	args []string // tell tshark which ports carry TLS
}

func startCapture(t *testing.T, ports ...string) capture {
	t.Helper()
	c := capture{file: filepath.Join(t.TempDir(), "packets")}
	// dumpcap is the part of tshark that captures.
	log := start(t, exec.Command("dumpcap", "-i", "lo", "-w", c.file, "-f", "tcp port "+strings.Join(ports, " or tcp port ")))
	for _, port := range ports {
		c.args = append(c.args, "-d", "tcp.port=="+port+",tls")
	}
	poll.Succeed(t, "dumpcap to capture", func() error {
		if !log.contains("File: ") {
			return fmt.Errorf("it has not said so: %s", log.String())
		}
		return nil
	})
	return c
}

// exchanges returns the requests for / so far and their answers, by the server's
// port. keys is the file with the secrets of the TLS connections.
func (c capture) exchanges(keys string) (map[string][]string, error) {
	args := append([]string{"-r", c.file, "-o", "tls.keylog_file:" + keys, "-T", "fields"}, c.args...)
	for _, field := range []string{"tcp.stream", "tcp.dstport", "tls.handshake.extensions_server_name",
		"http2.type", "http2.streamid", "http2.headers.authority", "http2.headers.path", "http2.headers.status"} {
		args = append(args, "-e", field)
	}
	cmd := exec.Command("tshark", append(args, "-Y", "tls.handshake.extensions_server_name or http2.headers")...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("tshark: %w: %s", err, stderr.String())
	}

	snis, asked, exchanges := make(map[string]string), make(map[[2]string][2]string), make(map[string][]string)
	for line := range strings.SplitSeq(strings.TrimRight(string(out), "\n"), "\n") {
		fields := strings.Split(line, "\t")
		if len(fields) != 8 {
			return nil, fmt.Errorf("tshark: %q", line)
		}
		connection, port, sni := fields[0], fields[1], fields[2]
		if sni != "" {
			snis[connection] = sni
		}
		// A packet may have several frames. Those with headers are requests, or
		// else responses: each has a value of its own.
		list := func(i int) []string { return strings.Split(fields[i], ",") }
		types, streams, authorities, paths, statuses := list(3), list(4), list(5), list(6), list(7)
		n := 0
		for i, kind := range types {
			if kind != "1" { // HEADERS
				continue
			}
			if max(len(paths), len(statuses)) <= n || len(paths) != len(authorities) {
				return nil, fmt.Errorf("tshark: %q", line)
			}
			key := [2]string{connection, streams[i]}
			switch requested := asked[key]; {
			case paths[0] != "":
				if paths[n] == "/" {
					asked[key] = [2]string{port, strings.TrimSuffix(authorities[n], ":"+port)}
				}
			case requested[0] != "":
				exchanges[requested[0]] = append(exchanges[requested[0]], fmt.Sprintf("SNI %s asked for %s: %s", snis[connection], requested[1], statuses[n]))
			}
			n++
		}
	}
	return exchanges, nil
}

// tabs are those of a Chromium, by its DevTools.
type tabs struct {
	t        *testing.T
	devtools string
	keys     string // file with the secrets of its TLS connections
}

func openChromium(t *testing.T, c *caddy, url string) *tabs {
	t.Helper()
	home, port := t.TempDir(), freePort(t)
	opened := &tabs{t: t, devtools: "http://127.0.0.1:" + port, keys: filepath.Join(home, "keys")}
	window, err := browser.Chromium.Open(browser.Options{
		Home: home, Root: c.root(), NoHTTP3: true, // packets of TCP are what tshark decodes
		Flags: []string{"--remote-debugging-port=" + port, "--ssl-key-log-file=" + opened.keys},
	}, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		window.Kill()
		if t.Failed() {
			t.Logf("Chromium:\n%s", window.Output())
		}
	})
	return opened
}

// title opens a tab with a URL, where none has it, and returns what it shows.
func (o *tabs) title(url string) (title string) {
	o.t.Helper()
	opened := false
	poll.Succeed(o.t, "a tab with "+url, func() error {
		resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(o.devtools + "/json/list")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var all []struct{ Title, URL string }
		if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
			return err
		}
		for _, tab := range all {
			if opened = opened || tab.URL == url; tab.URL == url && strings.HasPrefix(tab.Title, "Site ") {
				title = tab.Title
				return nil
			}
		}
		if !opened {
			opened = true
			req, err := http.NewRequest(http.MethodPut, o.devtools+"/json/new?"+url, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
		}
		return fmt.Errorf("the tabs are %v", all)
	})
	return title
}
