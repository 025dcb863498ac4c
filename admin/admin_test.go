package admin

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // what configs refer to

	_ "github.com/caddy-connreuse/connreuse/caddyfile"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/golden"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
	"github.com/caddy-connreuse/connreuse/misdirected"
	_ "github.com/caddy-connreuse/connreuse/origin"
)

// A live is a running Caddy with testdata/Caddyfile.
type live struct {
	t            *testing.T
	admin, https string
	normal       *strings.Replacer // ports are not the same from run to run
}

func start(t *testing.T) *live {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "The shop.")
	}))
	t.Cleanup(upstream.Close)
	ports := map[string]string{}
	for _, name := range []string{"ADMIN_PORT", "HTTPS_PORT", "OTHER_PORT"} {
		ports[name] = strconv.Itoa(testcaddy.FreePort(t))
		t.Setenv(name, ports[name])
	}
	// What is counted stays for the life of the process, by the server's name.
	main, other := "main"+ports["ADMIN_PORT"], "other"+ports["ADMIN_PORT"]
	t.Setenv("MAIN_SERVER", main)
	t.Setenv("OTHER_SERVER", other)
	t.Setenv("STORAGE", t.TempDir())
	t.Setenv("UPSTREAM", upstream.Listener.Addr().String())
	file, err := os.ReadFile("testdata/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(file, map[string]any{"filename": "testdata/Caddyfile"})
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	l := &live{
		t: t, admin: "http://127.0.0.1:" + ports["ADMIN_PORT"], https: "127.0.0.1:" + ports["HTTPS_PORT"],
		normal: strings.NewReplacer(main, "main", other, "other", upstream.Listener.Addr().String(), "UPSTREAM", ":"+ports["HTTPS_PORT"], ":HTTPS", `"port": `+ports["HTTPS_PORT"], `"port": "HTTPS"`),
	}
	// Certificates are made in the background; what is said of a site depends on them.
	for name, address := range map[string]string{
		"shop.admin.test": l.https, "blog.admin.test": l.https, "lenient.admin.test": l.https, "vault.admin.test": l.https, "any.admin.test": l.https,
		"apart.test": "127.0.0.1:" + ports["OTHER_PORT"],
	} {
		poll.Succeed(t, "a certificate for "+name, func() error {
			conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	return l
}

// request sends a request over a connection of its own with that SNI.
func (l *live) request(sni, host string) int {
	l.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{ServerName: sni, InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest("GET", "https://"+l.https+"/", nil)
	if err != nil {
		l.t.Fatal(err)
	}
	req.Host = host
	resp, err := transport.RoundTrip(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// idle waits until the connection to the upstream is idle: clients have their response
// a moment earlier.
func (l *live) idle() {
	l.t.Helper()
	poll.Until(l.t, "the connection to the upstream is idle", func() bool {
		_, upstreams := l.ask("GET", "/connreuse/upstreams")
		return strings.Contains(upstreams, `"idle": 1,`)
	})
}

// ask asks the admin API, with the ports and times of the answer made normal.
func (l *live) ask(method, path string) (status int, body string) {
	l.t.Helper()
	req, err := http.NewRequest(method, l.admin+path, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if path == "/connreuse/misdirected" && resp.StatusCode == http.StatusOK {
		text = l.ofThisTest(text)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "\t"); err != nil {
		l.t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
	answer := l.normal.Replace(indented.String())
	answer = regexp.MustCompile(`"time": "20[^"]+Z"`).ReplaceAllString(answer, `"time": "TIME"`)
	answer = regexp.MustCompile(`"remote_addr": "127.0.0.1:\d+"`).ReplaceAllString(answer, `"remote_addr": "CLIENT"`)
	answer = regexp.MustCompile(`"transport": "[0-9a-f]+"`).ReplaceAllString(answer, `"transport": "TRANSPORT"`)
	answer = regexp.MustCompile(`(\n\t+)\d+\.\d{3,}(e-\d+)?`).ReplaceAllString(answer, `${1}AGE`)
	return resp.StatusCode, answer
}

// ofThisTest leaves out what other tests have counted.
func (l *live) ofThisTest(text []byte) []byte {
	l.t.Helper()
	var m Misdirected
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		l.t.Fatal(err)
	}
	ours := os.Getenv("MAIN_SERVER")
	m.Requests = slices.DeleteFunc(m.Requests, func(c misdirected.Count) bool { return c.Server != ours })
	m.Refusals = slices.DeleteFunc(m.Refusals, func(r misdirected.Refusal) bool { return r.Server != ours })
	text, err := json.Marshal(m)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

// TestEndpoints compares the answers of a live Caddy with testdata/*.json; -update
// writes those.
func TestEndpoints(t *testing.T) {
	l := start(t)
	server := strings.NewReplacer("MAIN", os.Getenv("MAIN_SERVER"), "OTHER", os.Getenv("OTHER_SERVER"))
	for _, r := range []struct {
		sni, host string
		want      int
	}{
		{"shop.admin.test", "shop.admin.test", 200},
		{"shop.admin.test", "blog.admin.test", 200},
		{"blog.admin.test", "shop.admin.test", 421},
		{"blog.admin.test", "vault.admin.test", 421},
		{"blog.admin.test", "lenient.admin.test", 200},
		{"<img/src=x/onerror=alert(1)>.admin.test", "shop.admin.test", 421},
	} {
		if got := l.request(r.sni, r.host); got != r.want {
			_, why := l.ask("GET", "/connreuse/explain?server="+os.Getenv("MAIN_SERVER")+"&sni="+url.QueryEscape(r.sni)+"&host="+r.host)
			t.Fatalf("a request for %s on a connection for %s: %d, want %d: %s", r.host, r.sni, got, r.want, why)
		}
	}
	l.idle()
	for _, test := range []struct {
		name   string
		method string
		path   string
		status int
	}{
		{"upstreams", "GET", "upstreams", 200},
		{"upstreams-one", "GET", "upstreams?upstream=" + os.Getenv("UPSTREAM"), 200},
		{"upstreams-unknown", "GET", "upstreams?upstream=nowhere:80", 404},
		{"upstreams-post", "POST", "upstreams", 405},
		{"upstreams-other-parameter", "GET", "upstreams?upstreams=a", 400},
		{"origins", "GET", "origins", 200},
		{"origins-server", "GET", "origins?server=MAIN", 200},
		{"origins-other-server", "GET", "origins?server=OTHER", 404},
		{"origins-shop", "GET", "origins?sni=shop.admin.test", 200},
		{"origins-blog", "GET", "origins?server=MAIN&sni=BLOG.admin.test", 200},
		{"origins-no-sni", "GET", "origins?sni=", 200},
		{"origins-invalid-sni", "GET", "origins?sni=a%20b", 200},
		{"origins-twice", "GET", "origins?sni=a&sni=b", 400},
		{"origins-delete", "DELETE", "origins", 405},
		{"misdirected", "GET", "misdirected", 200},
		{"misdirected-parameter", "GET", "misdirected?n=5", 400},
		{"misdirected-put", "PUT", "misdirected", 405},
		{"sites", "GET", "sites", 200},
		{"sites-main", "GET", "sites?server=MAIN", 200},
		{"sites-unknown", "GET", "sites?server=nix", 404},
		{"explain-same", "GET", "explain?server=MAIN&sni=shop.admin.test&host=shop.admin.test", 200},
		{"explain-covered", "GET", "explain?server=MAIN&sni=shop.admin.test&host=blog.admin.test:8443", 200},
		{"explain-other-host", "GET", "explain?server=MAIN&sni=blog.admin.test&host=shop.admin.test", 200},
		{"explain-vault", "GET", "explain?server=MAIN&sni=blog.admin.test&host=vault.admin.test", 200},
		{"explain-reported", "GET", "explain?server=MAIN&sni=blog.admin.test&host=lenient.admin.test", 200},
		{"explain-no-sni", "GET", "explain?server=MAIN&host=vault.admin.test", 200},
		{"explain-odd-host", "GET", "explain?server=OTHER&sni=apart.test&host=apart.test.", 200},
		{"explain-no-site", "GET", "explain?server=MAIN&sni=blog.admin.test&host=elsewhere.test", 200},
		{"explain-shared", "GET", "explain?server=OTHER&sni=together.test&host=apart.test", 200},
		{"explain-no-host", "GET", "explain?server=MAIN&sni=a", 400},
		{"explain-which-server", "GET", "explain?host=a", 400},
		{"explain-unknown-server", "GET", "explain?server=nix&host=a", 404},
		{"explain-bad-query", "GET", "explain?host=%zz", 400},
		{"explain-post", "POST", "explain?host=a", 405},
		{"drain-get", "GET", "upstreams/drain", 405},
		{"drain-unknown", "POST", "upstreams/drain?upstream=nowhere:80", 404},
		{"drain-one", "POST", "upstreams/drain?upstream=" + os.Getenv("UPSTREAM"), 200},
		{"drain-all", "POST", "upstreams/drain", 200},
		{"unknown", "GET", "unknown", 404},
		{"page-post", "POST", "", 405},
	} {
		t.Run(test.name, func(t *testing.T) {
			l.t = t
			if test.name == "drain-all" {
				l.request("shop.admin.test", "shop.admin.test") // the pool is gone since drain-one
				l.idle()
			}
			status, got := l.ask(test.method, "/connreuse/"+server.Replace(test.path))
			if status != test.status {
				t.Errorf("%d, want %d: %s", status, test.status, got)
			}
			golden.Check(t, filepath.Join("testdata", test.name+".json"), []byte(got))
		})
	}
	l.t = t
	t.Run("page", func(t *testing.T) { testPage(t, l) })
}

// TestEmpty asks where no Caddy runs: lists are empty, not null.
func TestEmpty(t *testing.T) {
	for path, want := range map[string]string{
		"upstreams": `{"pools":[]}`,
		"origins":   `{"connections":[],"more":0}`,
		"sites":     `{"sites":[],"more":0}`,
	} {
		w := httptest.NewRecorder()
		if err := endpointAt(t, path).ServeHTTP(w, httptest.NewRequest("GET", base+path, nil)); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(w.Body.String()); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	err := endpointAt(t, "explain").ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", base+"explain?host=a", nil))
	if apiErr, ok := err.(caddy.APIError); !ok || apiErr.HTTPStatus != http.StatusNotFound {
		t.Errorf("explain without a server: %v, want 404", err)
	}
}

func endpointAt(t testing.TB, path string) endpoint {
	t.Helper()
	for _, e := range endpoints {
		if e.path == path {
			return e
		}
	}
	t.Fatalf("there is no endpoint %s", path)
	return endpoint{}
}
