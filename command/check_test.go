package command

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
)

func init() { caddy.RegisterModule(unknownWrapper{}) }

// An unknownWrapper is a listener wrapper that nobody here has heard of.
type unknownWrapper struct{}

func (unknownWrapper) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.listeners.connreuse_unknown", New: func() caddy.Module { return new(unknownWrapper) }}
}

func (unknownWrapper) WrapListener(ln net.Listener) net.Listener { return ln }

// pki makes a folder with certificates for *.example.test (wild.pem) and 192.0.2.1
// (address.pem), and with a CA of clients (clients.pem).
func pki(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	ca := newAuthority(t)
	write := func(cert tls.Certificate, name string) {
		t.Helper()
		if err := testcert.WritePEM(cert, filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")); err != nil {
			t.Fatal(err)
		}
	}
	write(ca.issue("*.example.test"), "wild")
	write(ca.issue("192.0.2.1"), "address")
	write(ca.ca, "clients")
	return dir
}

// runCheck runs the command check as an operator does.
func runCheck(t *testing.T, pki string, args ...string) (code int, stdout string) {
	t.Helper()
	cmd := runCaddy(t, append([]string{"connreuse", "check"}, args...)...)
	cmd.Env = append(cmd.Env, "PKI="+pki, "LOGS="+t.TempDir())
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	code = exitCode(t, cmd.Run())
	return code, out.String() + stderr.String()
}

// TestCheckFinds: each config has something wrong with it, and the command says what.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	dir := pki(t)
	for _, test := range []struct {
		file string
		want []string
		not  string // what it does not say
	}{
		{"hidden-tls.caddyfile", []string{": 1 finding\n", "srv0: listener wrappers stand behind TLS and hide it", "proxy_protocol"}, ""},
		{"hidden-tls-with-origin.caddyfile", []string{"does not load: ", "'proxy_protocol' must stand in front of tls"}, ""},
		{"unknown-wrapper.json", []string{"main: listener wrappers stand behind TLS that may hide it", "connreuse_unknown"}, "http_redirect"},
		{"two-servers-blocks.caddyfile", []string{"a servers block in the global options never applies: each server has a block with its address", "servers\n"}, "servers :443"},
		{"servers-block-with-bind.caddyfile", []string{": 1 finding\n", "no server listens on ':443' as it is written there", "127.0.0.1:443"}, ""},
		{"strict-sni-host.caddyfile", []string{"srv0: strict_sni_host is on", "strict_sni_host insecure_off"}, ""},
		{"way-around.caddyfile", []string{"srv0: sites that ask for client certificates can be reached over connections that were not asked for one", "vault.example.test"}, "www.example.test"},
		{"way-around-without-modules.caddyfile", []string{"sites that ask for client certificates can be reached", "vault.example.test"}, "www.example.test"},
		{"shared-certificate.caddyfile", []string{"srv0: sites share a certificate and misdirected refuses their requests on each other's connections", "a.example.test, b.example.test"}, ""},
		{"managed-wildcard.caddyfile", []string{"sites share a certificate and misdirected refuses", "put misdirected { scope certificate } into them", "*.example.test, open.example.test"}, ""},
		{"forced-certificates.caddyfile", []string{"put misdirected { scope certificate } into them", "sites        *.example.test\n"}, "open.example.test"},
		{"address-without-default-sni.caddyfile", []string{": 1 finding\n", "set default_sni to the address", "192.0.2.1"}, ""},
		{"health-check-of-own-site.caddyfile", []string{": 1 finding\n", "srv0: an active health check gets 421 from this server: a guard refuses it", "host         127.0.0.1:443", "sni          app.example.test"}, ""},
		{"health-check-with-strict-sni-host.caddyfile", []string{": 1 finding\n", "srv0: an active health check gets 421 from this server: strict_sni_host is on", "host         www.example.test", "sni          localhost"}, ""},
		{"health-check-without-a-name.caddyfile", []string{": 1 finding\n", "active health checks fail in the TLS handshake", "backend.internal:8443", "{http.request.host}"}, ""},
		{"health-check-without-a-client.caddyfile", []string{": 1 finding\n", "active health checks fail before they are sent", "backend.internal:8080", "v2"}, ""},
		{"health-check-without-host.caddyfile", []string{"srv0: health checks in HTTP/1.0 without Host, as load balancers send them, get 400"}, ""},
		{"error-page-service.caddyfile", []string{"srv0: sites share a certificate and misdirected refuses their requests on each other's connections", "a.example.test, b.example.test"}, ""},
		{"error-routes-of-a-vault.caddyfile", []string{": 1 finding\n", "srv0: error routes of sites that ask for client certificates ask an upstream", "vault.example.test"}, ""},
		{"broken.caddyfile", []string{"does not load: ", "broken.caddyfile:3", "everything"}, ""},
		{"does-not-load.json", []string{"does not load: ", "it is unnecessary to specify the TLS listener wrapper in the first position"}, ""},
	} {
		t.Run(test.file, func(t *testing.T) {
			t.Parallel()
			code, got := runCheck(t, dir, filepath.Join("testdata", "check", test.file))
			if code != exitWrong {
				t.Errorf("exit code %d, want %d", code, exitWrong)
			}
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if test.not != "" && strings.Contains(got, test.not) {
				t.Errorf("it says %q", test.not)
			}
			if t.Failed() {
				t.Log(got)
			}
		})
	}
}

// TestCheckIsSilent: nothing is wrong with configs as people have them.
func TestCheckIsSilent(t *testing.T) {
	t.Parallel()
	dir := pki(t)
	files, err := filepath.Glob("testdata/check/ordinary/*")
	if err != nil || len(files) < 10 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			if code, got := runCheck(t, dir, file); code != 0 || got != file+": nothing was found\n" {
				t.Errorf("exit code %d: %s", code, got)
			}
		})
	}
}

// TestCheckJSON: the same for scripts.
func TestCheckJSON(t *testing.T) {
	dir := pki(t)
	code, got := runCheck(t, dir, "--json", "testdata/check/way-around.caddyfile")
	var r checkReport
	if err := json.Unmarshal([]byte(got), &r); err != nil || code != exitWrong {
		t.Fatalf("exit code %d, %v: %s", code, err, got)
	}
	if len(r.Findings) != 1 || r.Findings[0].Server != "srv0" || r.Findings[0].Module != "connreuse" || fmt.Sprint(r.Findings[0].Details["sites"]) != "[vault.example.test]" {
		t.Errorf("%+v", r)
	}
	code, got = runCheck(t, dir, "--json", "--adapter=caddyfile", "testdata/check/ordinary/static.caddyfile")
	if want := "{\n\t\"config\": \"testdata/check/ordinary/static.caddyfile\",\n\t\"findings\": [],\n\t\"notes\": []\n}\n"; code != 0 || got != want {
		t.Errorf("exit code %d: %s, want %s", code, got, want)
	}
}

// TestCheckRefuses: arguments that are wrong.
func TestCheckRefuses(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"nowhere"}, "reading the config: stat nowhere: no such file or directory"},
		{[]string{"--adapter=unheard-of", "testdata/check/broken.caddyfile"}, "unrecognized config adapter: unheard-of"},
		{[]string{"--probe", "--timeout=0s", "testdata/check/broken.caddyfile"}, "reading --timeout '0s': must be positive"},
		{[]string{"a", "b"}, "accepts at most 1 arg(s), received 2"},
	} {
		if code, got := runCheck(t, "", test.args...); code != 1 || !strings.Contains(got, test.want) {
			t.Errorf("%s: exit code %d, %s; want %s", test.args, code, got, test.want)
		}
	}
}

// TestCheckProbes: an upstream announces less than for how long a transport keeps its
// idle connections.
func TestCheckProbes(t *testing.T) {
	t.Parallel()
	announce := func(seconds int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if seconds > 0 {
				w.Header().Set("Connection", "keep-alive")
				w.Header().Set("Keep-Alive", fmt.Sprintf("timeout=%d", seconds))
			}
		}
	}
	plain := httptest.NewServer(announce(5))
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(announce(30))
	t.Cleanup(secure.Close)
	silent := httptest.NewServer(announce(0))
	t.Cleanup(silent.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, test := range []struct {
		name, transport string
		upstream        *httptest.Server
		probe           bool
		want            []string // nil: nothing
	}{
		{"not probed", "", plain, false, nil},
		{"the default", "", plain, true, []string{"write 'keepalive 4.7", "announced    5s", "kept         2m"}},
		{"too long", "transport http {\nkeepalive 5s\n}", plain, true, []string{"kept         5s"}},
		{"short enough", "transport http {\nkeepalive 3s\n}", plain, true, nil},
		{"off", "transport http {\nkeepalive off\n}", plain, true, nil},
		{"over TLS", "transport http {\ntls\ntls_insecure_skip_verify\n}", secure, true, []string{"announced    30s"}},
		{"the pool finds out", "transport upstreampool", plain, true, nil},
		{"the pool is told too much", "transport upstreampool {\nupstream_keep_alive 60s\n}", plain, true, []string{"write 'upstream_keep_alive 5s'"}},
		{"nothing is announced", "", silent, true, nil},
		{"not there", "", gone, true, []string{"Note: the upstream ", "could not be asked: connecting to "}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "Caddyfile")
			text := fmt.Sprintf("http://a.example.test {\nhandle /deeper/* {\nreverse_proxy %s {\n%s\n}\n}\n}\n", test.upstream.Listener.Addr(), test.transport)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			code, got := runCheck(t, "", fmt.Sprintf("--probe=%v", test.probe), file)
			wantCode := exitWrong
			if test.want == nil {
				test.want = []string{": nothing was found\n"}
				wantCode = 0
			}
			if test.upstream == gone {
				wantCode = 0
			}
			for _, want := range test.want {
				if code != wantCode || !strings.Contains(got, want) {
					t.Errorf("exit code %d, %s; want %d and %q", code, got, wantCode, want)
				}
			}
		})
	}
}

// writer is a config whose modules write wherever they are told to, even while they
// are set up.
const writer = `{
	storage file_system %[1]s/storage
	skip_install_trust
	log {
		output file %[1]s/logs/default.log
	}
}

www.example.test {
	tls internal {
		client_auth {
			mode require
		}
		insecure_secrets_log %[1]s/logs/secrets.log
	}
	misdirected
	log {
		output file %[1]s/logs/access.log
	}
	reverse_proxy localhost:3000 {
		transport upstreampool
	}
}

acme.example.test {
	tls internal
	acme_server
}
`

// TestCheckWritesNothing: the file system is as it was, also for root, for which
// nothing is read-only. caddy validate leaves logs and a CA behind.
func TestCheckWritesNothing(t *testing.T) {
	home, temp := t.TempDir(), t.TempDir()
	file := filepath.Join(home, "Caddyfile")
	if err := os.WriteFile(file, fmt.Appendf(nil, writer, home), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, home)
	for _, test := range []struct {
		name    string
		command func(args ...string) *exec.Cmd
	}{
		{"as it is", func(args ...string) *exec.Cmd { return exec.CommandContext(t.Context(), args[0], args[1:]...) }},
		{"all else read-only", func(args ...string) *exec.Cmd {
			script := `mount --make-rprivate / && mount -t tmpfs tmpfs "$TMPDIR" && mount -o remount,bind,ro / && "$@" && test -z "$(ls "$TMPDIR")"`
			return exec.CommandContext(t.Context(), "unshare", append([]string{"-m", "sh", "-c", script, "sh"}, args...)...)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name != "as it is" && exec.Command("unshare", "-m", "mount", "-o", "remount,bind,ro", "/").Run() != nil {
				t.Skip("making the file system read-only takes root")
			}
			cmd := test.command(os.Args[0], "connreuse", "check", file)
			cmd.Env = append(os.Environ(), asCaddy+"=1", "HOME="+home, "XDG_DATA_HOME=", "XDG_CONFIG_HOME=", "TMPDIR="+temp)
			cmd.Dir = home
			if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "strict_sni_host is on") || strings.Contains(string(out), "does not load") {
				t.Errorf("%v: %s", err, out)
			}
			if after := tree(t, home); !maps.Equal(before, after) {
				t.Errorf("before:\n%v\nafter:\n%v", before, after)
			}
			if left := tree(t, temp); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("caddy validate", func(t *testing.T) { // shows that there is something to write
		cmd := exec.CommandContext(t.Context(), os.Args[0], "validate", "--config", file)
		cmd.Env = append(os.Environ(), asCaddy+"=1", "HOME="+home, "XDG_DATA_HOME=", "XDG_CONFIG_HOME=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		after := tree(t, home)
		for _, name := range []string{"logs/default.log", "logs/secrets.log", "storage", ".local/share/caddy/acme_server"} {
			if after[name] == "" {
				t.Errorf("it does not write %s: %v", name, after)
			}
		}
	})
}

// tree describes all files in a folder: mode, size and time.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
