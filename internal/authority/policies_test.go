package authority

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

func readPolicies(t *testing.T, text string) caddytls.ConnectionPolicies {
	t.Helper()
	var list caddytls.ConnectionPolicies
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("test data: %v in %s", err, text)
	}
	return list
}

func TestPolicies(t *testing.T) {
	const mtls = `"client_authentication":{"mode":"require"}`
	type pair struct {
		sni, host                     string
		settings, unnamed, clientAuth bool
	}
	for _, test := range []struct {
		name     string
		policies string
		pairs    []pair
	}{
		{
			name:     "one empty policy is everyone's",
			policies: `[{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"", "b.test", true, true, true},
				{"a.test", "127.0.0.1", true, true, true},
			},
		},
		{
			name:     "settings are compared without their matchers",
			policies: `[{"match":{"sni":["a.test"]},"alpn":["h2"]},{"match":{"sni":["b.test"]},"alpn":["h2"]},{"match":{"sni":["c.test"]}},{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"a.test", "c.test", false, false, true},
				{"c.test", "d.test", true, true, true},
				{"A.test", "a.test", false, false, true}, // callers pass canonical names
			},
		},
		{
			name: "settings are equal however they are written",
			policies: `[{"match":{"sni":["a.test"]},"alpn":["h2","http/1.1"],"protocol_min":"tls1.2","protocol_max":"tls1.3"},
				{"match":{"sni":["none.test"]},"alpn":[]},
				{"match":{"sni":["m.test"]},"client_authentication":{"ca":{"provider":"file","pem_files":["ca.pem"]}}},
				{"match":{"sni":["n.test"]},"client_authentication":{"mode":"require_and_verify","ca":{"pem_files": ["ca.pem"],"provider":"file"}}},
				{"match":{"sni":["o.test"]},"client_authentication":{"mode":"require","ca":{"provider":"file","pem_files":["ca.pem"]}}},
				{"match":{"sni":["v.test"]},"client_authentication":{"verifiers":[{"verifier":"leaf","leaf_certs_loaders":[]}]}},
				{"match":{"sni":["w.test"]},"client_authentication":{"mode":"require","verifiers":[{"leaf_certs_loaders":[],"verifier":"leaf"}]}},{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"none.test", "b.test", false, false, true},
				{"m.test", "n.test", true, true, true},
				{"m.test", "o.test", false, false, false},
				{"v.test", "w.test", true, true, true},
				{"v.test", "o.test", false, false, false},
			},
		},
		{
			name:     "client authentication",
			policies: `[{"match":{"sni":["m.test","*.m.test"]},` + mtls + `},{}]`,
			pairs: []pair{
				{"a.test", "m.test", false, false, false},
				{"m.test", "x.m.test", true, true, true},
				{"", "m.test", false, false, false},
				{"a.test", "y.x.m.test", true, true, true},
			},
		},
		{
			name:     "certificate selection is set aside where there was no name to select by",
			policies: `[{"match":{"sni":["a.test"]},"certificate_selection":{"any_tag":["x"]},"default_sni":"b.test","fallback_sni":"b.test"},{}]`,
			pairs:    []pair{{"", "a.test", false, true, true}},
		},
		{
			name:     "inactive client authentication is none",
			policies: `[{"match":{"sni":["a.test"]},"client_authentication":{}},{}]`,
			pairs:    []pair{{"a.test", "b.test", true, true, true}},
		},
		{
			name:     "default_sni acts without a name alone, and the adapter puts it into one of several equal policies",
			policies: `[{"match":{"sni":["a.test",""]},"default_sni":"a.test"},{"match":{"sni":["m.test"]},"default_sni":"a.test",` + mtls + `},{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"", "b.test", true, true, true},
				{"m.test", "b.test", false, false, false},
			},
		},
		{
			name:     "a policy that may be selected counts for both names",
			policies: `[{"match":{"sni":["a.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},"alpn":["h2"]},{}]`,
			pairs: []pair{
				{"a.test", "a.test", false, false, true},
				{"a.test", "b.test", false, false, true},
				{"b.test", "c.test", true, true, true},
			},
		},
		{
			name:     "a regular expression may match any name",
			policies: `[{"match":{"sni_regexp":{"pattern":"^a"}},` + mtls + `},{}]`,
			pairs:    []pair{{"b.test", "c.test", false, false, false}},
		},
		{
			name:     "all policies for a name agree",
			policies: `[{"match":{"remote_ip":{"ranges":["10.0.0.0/8"]}}},{}]`,
			pairs:    []pair{{"a.test", "b.test", true, true, true}},
		},
		{
			name:     "no policy for a name",
			policies: `[{"match":{"sni":["a.test"]}}]`,
			pairs: []pair{
				{"a.test", "b.test", false, false, false},
				{"b.test", "b.test", false, false, false},
				{"", "a.test", false, false, false},
			},
		},
		{
			name:     "an IP address has the policy of no name",
			policies: `[{"match":{"sni":["127.0.0.1"]},"alpn":["h2"]},{"match":{"sni":["::1"]},` + mtls + `},{}]`,
			pairs: []pair{
				{"", "127.0.0.1", true, true, true},
				{"", "127.0.0.2", true, true, true},
				{"", "::1", false, false, false}, // meant to be protected
			},
		},
		{
			name:     "no request comes over a dropped connection",
			policies: `[{"match":{"remote_ip":{"ranges":["10.0.0.0/8"]}},"drop":true},{"match":{"sni":["d.test"]},"drop":true},{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"", "b.test", true, true, true},
				{"a.test", "d.test", false, false, false},
			},
		},
		{
			name: "what is dropped from some addresses is not reached from there on another connection",
			policies: `[{"match":{"sni":["d.test"],"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]},"drop":true},
				{"match":{"sni":["e.test","f.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},"drop":true},{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"a.test", "d.test", false, false, false},
				{"", "d.test", false, false, false},
				{"e.test", "d.test", false, false, false},
				{"d.test", "a.test", true, true, true},
				{"d.test", "d.test", true, true, true},
				{"e.test", "f.test", true, true, true}, // both or none
				{"", "127.0.0.1", true, true, true},
			},
		},
		{
			name:     "a policy that may drop one name and not another",
			policies: `[{"match":{"sni_regexp":{"pattern":"^d"}},"drop":true},{}]`,
			pairs: []pair{
				{"a.test", "d.test", false, false, false},
				{"", "d.test", false, false, false},
				{"a.test", "a.test", true, true, true},
			},
		},
		{
			name:     "a matcher of others that drops is there for all names alike",
			policies: `[{"match":{"country":{"not":["NZ"]}},"drop":true},{"match":{"country":{"is":["AU"]}},` + mtls + `},{"match":{"sni":["a.test"]}},{}]`,
			pairs: []pair{
				{"a.test", "b.test", false, false, false}, // who knows what it matches by
				{"", "b.test", false, false, false},
			},
		},
		{
			name:     "a matcher of others that drops, and one policy for the rest",
			policies: `[{"match":{"country":{"not":["NZ"]}},"drop":true},{}]`,
			pairs:    []pair{{"a.test", "b.test", true, true, true}, {"", "b.test", true, true, true}},
		},
		{
			name:     "an earlier policy keeps one name from being dropped",
			policies: `[{"match":{"sni":["a.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}},{"match":{"remote_ip":{"ranges":["10.1.0.0/16"]}},"drop":true},{}]`,
			pairs: []pair{
				{"a.test", "b.test", false, false, false},
				{"b.test", "c.test", true, true, true},
			},
		},
		{
			name:     "where no policy is there for some addresses, another connection is no way in either",
			policies: `[{"match":{"sni":["d.test","e.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}},{"match":{"sni":["a.test","b.test",""]}}]`,
			pairs: []pair{
				{"a.test", "d.test", false, false, false},
				{"", "d.test", false, false, false},
				{"d.test", "a.test", true, true, true},
				{"d.test", "e.test", true, true, true},
				{"a.test", "b.test", true, true, true},
				{"", "127.0.0.1", true, true, true},
			},
		},
		{
			name: "policies by address are the same ones for all names that find them",
			policies: `[{"match":{"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]}}]},` + mtls + `},
				{"match":{"sni":["c.test","127.0.0.2"],"local_ip":{"ranges":["10.0.0.0/8"]}},` + mtls + `},{}]`,
			pairs: []pair{
				{"a.test", "b.test", true, true, true},
				{"", "b.test", true, true, true},
				{"", "", true, true, true}, // HTTP/1.0 without Host
				{"", "unlisted.test", true, true, true},
				{"", "127.0.0.1", true, true, true},
				{"", "127.0.0.2", false, false, false},
				{"a.test", "c.test", false, false, false},
				{"", "c.test", false, false, false},
			},
		},
		{
			name:     "policies by address and by a name are not",
			policies: `[{"match":{"not":[{"sni":["b.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}}]},` + mtls + `},{}]`,
			pairs:    []pair{{"a.test", "b.test", false, false, false}, {"", "b.test", false, false, false}},
		},
		{
			name:     "no server name matches no wildcard",
			policies: `[{"match":{"sni":["*"]},` + mtls + `},{}]`,
			pairs:    []pair{{"", "a.test", true, true, true}, {"", "a", false, false, false}},
		},
		{
			name:     "wildcards match from the left only, placeholders are replaced",
			policies: `[{"match":{"sni":["a.*.test","f*.test","*.b.test"]},"alpn":["h2"]},{"match":{"sni":["{env.CONNREUSE_TEST_NAME}.test"]},` + mtls + `},{}]`,
			pairs: []pair{
				{"a.x.test", "fx.test", true, true, true},
				{"a.x.test", "x.b.test", false, false, true},
				{"x.b.test", "y.b.test", true, true, true},
				{"a.test", "secret.test", false, false, false},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("CONNREUSE_TEST_NAME", "secret")
			ps, err := copyPolicies(readPolicies(t, test.policies))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range test.pairs {
				for _, f := range []struct {
					what string
					by   field
					want bool
				}{
					{"settings", (*policy).bySettings, p.settings},
					{"settings without certificate selection", (*policy).byUnnamed, p.unnamed},
					{"client authentication", (*policy).byClientAuth, p.clientAuth},
				} {
					if got := ps.same(f.by, p.sni, p.host); got != f.want {
						t.Errorf("SNI %q and host %q have the same %s: %t, want %t", p.sni, p.host, f.what, got, f.want)
					}
				}
			}
		})
	}
}

// A client-certificate rule is kept where a proper connection for the host is asked
// for nothing, or in the same way.
func TestKeepsClientAuth(t *testing.T) {
	const policies = `[
		{"match":{"sni":["m.test"]},"client_authentication":{"mode":"require"}},
		{"match":{"sni":["r.test"]},"client_authentication":{"mode":"request"}},
		{"match":{"sni":["v.test"]},"client_authentication":{"mode":"verify_if_given"}},
		{"match":{"sni":["ca.test"]},"client_authentication":{"trusted_ca_certs":["x"]}},
		{"match":{"sni":["rv.test"]},"client_authentication":{"mode":"require_and_verify"}},
		{"match":{"sni":["some.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},"client_authentication":{"mode":"require"}},
		{"match":{"sni":["d.test"]},"drop":true},
		{"match":{"sni":["e.test"],"remote_ip":{"ranges":["10.0.0.0/8"]}},"drop":true},
		{"match":{"sni":["127.0.0.1"]},"client_authentication":{"mode":"require"}},
		{"match":{"sni":["*.test",""]}}]`
	ps, err := copyPolicies(readPolicies(t, policies))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host     string
		open     bool // keepsClientAuth from any other name
		own      bool // keepsClientAuth on its own connection
		requires bool
		verifies bool
	}{
		{"a.test", true, true, false, false},
		{"m.test", false, true, true, false},
		{"r.test", false, true, false, false},
		{"v.test", false, true, false, false},
		{"ca.test", false, true, true, true},
		{"rv.test", false, true, true, true},
		{"some.test", false, false, false, false}, // it is asked or not
		{"d.test", false, false, false, false},    // dropped
		{"e.test", false, false, false, false},    // perhaps dropped
		{"no.policy.example", false, false, false, false},
		{"127.0.0.1", false, false, false, false}, // no client sends it
		{"127.0.0.2", true, true, false, false},
	} {
		own := test.host
		if strings.HasPrefix(own, "127.") {
			own = ""
		}
		s := &Snapshot{policies: ps}
		if got := s.KeepsClientAuth("b.test", test.host); got != test.open {
			t.Errorf("%s on another connection keeps the rule: %t, want %t", test.host, got, test.open)
		}
		if got := s.Open(test.host); got != test.open {
			t.Errorf("%s is open: %t, want %t", test.host, got, test.open)
		}
		if got := s.KeepsClientAuth(own, test.host); got != test.own {
			t.Errorf("%s on its own connection keeps the rule: %t, want %t", test.host, got, test.own)
		}
		if got := s.RequiresClientCert(test.host); got != test.requires {
			t.Errorf("%s requires a certificate: %t, want %t", test.host, got, test.requires)
		}
		if got := s.VerifiesClientCert(test.host); got != test.verifies {
			t.Errorf("%s requires a signed certificate: %t, want %t", test.host, got, test.verifies)
		}
	}
}

// fallback_sni acts on names that have no certificate, and is a setting for these.
func TestFallbackSNIIsASettingWithoutCertificate(t *testing.T) {
	snap := originServer(t, testcaddy.TLSApp(t, `{}`, []string{"a.f.test", "b.f.test"}), `"tls_connection_policies":[
		{"match":{"sni":["a.f.test","x.f.test"]},"fallback_sni":"a.f.test"},{}],"routes":[`+oneGuard+`]`).Snapshot()
	for _, test := range []struct {
		sni, host string
		want      bool
	}{
		{"a.f.test", "b.f.test", true},
		{"b.f.test", "a.f.test", true},
		{"x.f.test", "b.f.test", false},
		{"b.f.test", "x.f.test", false},
		{"a.f.test", "y.f.test", false},
		{"a.f.test", "x.f.test", true}, // one policy
		{"b.f.test", "y.f.test", true},
	} {
		if got := snap.SamePolicy(test.sni, test.host); got != test.want {
			t.Errorf("SNI %s and host %s have the same policy: %t, want %t", test.sni, test.host, got, test.want)
		}
	}
}

func TestCopyPoliciesErrors(t *testing.T) {
	_, err := copyPolicies(readPolicies(t, `[{},{"match":{"sni":"a.test"}}]`))
	if err == nil || !strings.Contains(err.Error(), "TLS connection policy 1") {
		t.Errorf("error = %v, want one that names the policy", err)
	}
}

// TestPoliciesAsCaddySelects compares the policy found for a name with the one
// that Caddy selects in a handshake, over random lists of policies. Some
// are longer than 30, from where on Caddy's source has an index by name: it is
// never filled in v2.11.9, and it would change the order if it were.
func TestPoliciesAsCaddySelects(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"a.test", "b.test", "x.a.test", "y.a.test", "z.x.a.test", "test", "*.test", "*.a.test", "*.*.test", "*", "x.*.test", "BÜCHER.test"}
	ctx := testcaddy.Provision(t, `{}`, "")
	for round := range 400 {
		count := 1 + rnd.IntN(6)
		if round%2 == 1 {
			count = 31 + rnd.IntN(5)
		}
		var texts []string
		for i := range count {
			var sni []string
			for range 1 + rnd.IntN(3) {
				sni = append(sni, `"`+names[rnd.IntN(len(names))]+`"`)
			}
			match := `"match":{"sni":[` + strings.Join(sni, ",") + `]},`
			if i == count-1 && rnd.IntN(4) > 0 {
				match = ""
			}
			texts = append(texts, fmt.Sprintf(`{%s"default_sni":"policy-%d"}`, match, i))
		}
		list := readPolicies(t, "["+strings.Join(texts, ",")+"]")
		ps, err := copyPolicies(list)
		if err != nil {
			t.Fatal(err)
		}
		loaded := make([]*tls.Config, len(list))
		if err := list.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		for i := range list {
			loaded[i] = list[i].TLSConfig
		}
		selectFor := list.TLSConfig(caddy.Context{}).GetConfigForClient
		for _, sni := range []string{"", "a.test", "b.test", "c.test", "x.a.test", "q.a.test", "z.x.a.test", "x.y.test", "test", "else", "xn--bcher-kva.test", "xn--bcher-uta.test"} {
			server, client := net.Pipe()
			config, err := selectFor(&tls.ClientHelloInfo{ServerName: sni, Conn: server})
			server.Close()
			client.Close()
			want := -1
			for i := range loaded {
				if err == nil && config == loaded[i] {
					want = i
				}
			}
			got := -1
			var c cursor
			ps.find(&c, sni)
			if r, ok := c.next(); ok {
				got = int(r.index)
			}
			if got != want {
				t.Fatalf("round %d: SNI %q has policy %d, Caddy selects %d of %s", round, sni, got, want, texts)
			}
		}
	}
}
