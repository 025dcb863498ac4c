package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/fake"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// authenticated are proxies in front of a server that authenticates connections: how to
// reach each, and whom it takes somebody without credentials for, after a request of alice.
type authenticated struct {
	name, scheme, port string
	taken              string
}

// proxiesTo starts Caddy as the recipe has it, Caddy with its own transport, and
// HAProxy, which hands connections to other clients at any time.
func proxiesTo(t *testing.T, addr string) []authenticated {
	t.Helper()
	haproxy := needs.Program(t, "haproxy", "haproxy")
	ours := readRecipe(t, "NTLM and Negotiate").start(t, strings.NewReplacer("10.0.0.1:80", addr), "intranet.example.com")
	stock := startCaddy(t, "", "intranet.example.com {\n\treverse_proxy "+addr+"\n}\n", []string{"intranet.example.com"})
	port := freePort(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, `defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
	http-reuse always
listen front
	bind 127.0.0.1:%s
	server one %s
`, port, addr), 0o600); err != nil {
		t.Fatal(err)
	}
	player{listen: []string{port}, args: []string{haproxy, "-db", "-f", file}}.start(t)
	return []authenticated{
		{"upstreampool", "https", ours.port, "401"},
		{"transport http", "https", stock.port, "200 alice"},
		{"HAProxy", "http", port, "401"},
	}
}

// as sends a request on a client's connection and returns the status, and the user whom
// the server takes the client for.
func (p authenticated) as(t *testing.T, c *http.Client, credentials string) string {
	t.Helper()
	req, err := http.NewRequest("GET", p.scheme+"://intranet.example.com/index", nil)
	if err != nil {
		t.Fatal(err)
	}
	if credentials != "" {
		req.Header.Set("Authorization", credentials)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	user, _, _ := strings.Cut(resp.Header.Get("X-User"), "@")
	if user == "" {
		user = string(body)
	}
	return "200 " + user
}

// oneConnection is a client that speaks HTTP/1.1 to a proxy.
func (p authenticated) oneConnection(t *testing.T) *http.Client {
	return toPort(t, p.port, func(p *http.Protocols) { p.SetHTTP1(true) })
}

// Apache authenticates connections with Kerberos. After alice has authenticated one,
// bob asks without credentials, on a client connection of his own. HAProxy knows an
// authenticated connection by its challenge. Here credentials come unasked, and it is
// chance whether it lends alice's connection to bob.
//
// Checklist: P30.
func TestKerberosBesideOthers(t *testing.T) {
	realm := startRealm(t)
	for _, p := range proxiesTo(t, realm.startApache(t)) {
		t.Run(p.name, func(t *testing.T) {
			alice, bob := p.oneConnection(t), p.oneConnection(t)
			for _, step := range []struct {
				who         string
				client      *http.Client
				credentials string
				want        string
			}{
				{"alice", alice, realm.token(t, "alice"), "200 alice"},
				{"bob, without credentials", bob, "", p.taken},
				{"alice, on her connection", alice, "", "200 alice"},
				{"bob", p.oneConnection(t), realm.token(t, "bob"), "200 bob"},
			} {
				got := p.as(t, step.client, step.credentials)
				if p.name == "HAProxy" {
					t.Logf("%s: %s", step.who, got)
				} else if got != step.want {
					t.Errorf("%s: %s, want %s", step.who, got, step.want)
				}
			}
		})
	}
}

// The same with NTLM, which takes two requests with credentials.
//
// Checklist: P30.
func TestRecipeNTLM(t *testing.T) {
	ln, err := fake.Listen(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ln.Stop)
	go ln.ServeNTLM()
	for _, p := range proxiesTo(t, ln.Addr().String()) {
		t.Run(p.name, func(t *testing.T) {
			alice, bob := p.oneConnection(t), p.oneConnection(t)
			for _, step := range []struct {
				who         string
				client      *http.Client
				credentials string
				want        string
			}{
				{"alice", alice, "", "401"},
				{"alice", alice, "NTLM alice", "401"},
				{"alice", alice, "NTLM alice:proof", "200 alice"},
				{"bob, without credentials", bob, "", p.taken},
				{"alice, on her connection", alice, "", "200 alice"},
			} {
				if got := p.as(t, step.client, step.credentials); got != step.want {
					t.Errorf("%s, with %q: %s, want %s", step.who, step.credentials, got, step.want)
				}
			}
			for _, step := range []struct{ credentials, want string }{
				{"NTLM bob", "401"}, {"NTLM bob:proof", "200 bob"}, {"", "200 bob"},
			} {
				if got := p.as(t, bob, step.credentials); got != step.want {
					t.Errorf("bob, with %q: %s, want %s", step.credentials, got, step.want)
				}
			}
		})
	}
}

// Over HTTP/1.1 and HTTP/2, a client connection has its own connection to the upstream,
// for as long as it lives, also where a listener wrapper stands between. Over HTTP/3 it
// has none, and what carried credentials ends.
//
// Checklist: P30.
func TestNegotiateByProtocol(t *testing.T) {
	for wrappers, options := range map[string]string{"": "", "origin": "servers {\n\t\tlistener_wrappers {\n\t\t\torigin\n\t\t}\n\t}"} {
		ln, err := fake.Listen(nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ln.Stop)
		go ln.ServeNTLM()
		c := startCaddy(t, options, "a.x.test {\n\treverse_proxy "+ln.Addr().String()+" {\n\t\ttransport upstreampool\n\t}\n}\n", []string{"a.x.test"})
		for protocol, again := range map[string]string{"h1": "200 alice", "h2": "200 alice", "h3": "401 "} {
			t.Run(protocol+wrappers, func(t *testing.T) {
				negotiate(t, ln, c.addr, protocol, again)
			})
		}
	}
}

// negotiate has alice authenticate her connection, beside another client. Again is what
// she gets without credentials afterwards.
func negotiate(t *testing.T, upstream *fake.Listener, addr, protocol, again string) {
	t.Helper()
	alice := dialers[protocol](t, addr, clientTLS("a.x.test"))
	other := dialers[protocol](t, addr, clientTLS("a.x.test"))
	for _, step := range []struct {
		client      client
		credentials string
		want        string
	}{
		{other, "", "401 "},
		{alice, "Negotiate alice", "200 alice"},
		{other, "", "401 "},
		{alice, "", again},
	} {
		request := ask{authority: "a.x.test"}
		if step.credentials != "" {
			request.header = [][2]string{{"authorization", step.credentials}}
		}
		got := step.client.do(request)
		if text := fmt.Sprintf("%d %s", got.status, got.body); text != step.want {
			t.Errorf("with %q: %s, want %s", step.credentials, text, step.want)
		}
	}
	if protocol != "h3" {
		if upstream.Open.Load() == 0 {
			t.Error("not kept")
		}
		alice.close()
		other.close()
	}
	poll.Until(t, "connections to the upstream closed", func() bool { return upstream.Open.Load() == 0 })
}
