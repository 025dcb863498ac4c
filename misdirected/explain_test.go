package misdirected

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// It asks random servers over real connections, and compares each answer with what
// explain says of it. Some have default_sni or fallback_sni, error routes, named routes,
// or a listener wrapper that hides TLS; some requests are early data. Nobody is answered
// without the client certificate that the policy for the host asks for.
//
// Checklist: M15.
func TestExplainIsTrueOnTheWire(t *testing.T) {
	if race.Enabled {
		t.Skip("quic-go's client has a data race of its own with early data")
	}
	names := []string{"a.p3.test", "b.p3.test", "c.p3.test", "x.w.p3.test", "y.w.p3.test", "n.p3.test"}
	rnd := testcaddy.NewRandom(21, names, []string{"*.p3.test", "*.w.p3.test", "*.*.p3.test", "*.*"})
	// Explain is asked for no client in particular: what goes by addresses here goes for all.
	rnd.Looks = []string{
		`,"sni_regexp":{"pattern":"^[abx]"}`, `,"not":[{"sni":["a.p3.test","*.w.p3.test",""]}]`, `,"remote_ip":{"ranges":["0.0.0.0/0"]}`,
		`,"remote_ip":{"ranges":["10.0.0.0/8"]}`, `,"not":[{"remote_ip":{"ranges":["10.0.0.0/8"]},"sni_regexp":{"pattern":"^b"}}]`,
	}
	certificates := testcaddy.TLSApp(t, `{}`, []string{"a.p3.test", "b.p3.test", "x.w.p3.test"}, []string{"c.p3.test"}, []string{"*.w.p3.test", "n.p3.test"})
	staffCA, staff := clientCA(t, "staff")
	guestCA, guests := clientCA(t, "guests")
	certs := []tls.Certificate{clientCert(t, nil), clientCert(t, nil), clientCert(t, &staffCA), clientCert(t, &guestCA)}
	counts := make(map[string]int)
	rounds := needs.InLong(25, 8)
	for range rounds {
		inner := rnd.Pick("", `{"handler":"invoke","name":"n"},`) + `{"handler":"static_response","body":"ok"}`
		var routes []string
		for range 1 + rnd.IntN(4) {
			handlers := rnd.Guard(`,"error_routes":true`, `,"missing_sni":"accept"`, `,"missing_sni":"reject"`, `,"report_only":true`) + inner
			not := ""
			if rnd.IntN(4) == 0 {
				not = `,"not":[{"host":` + rnd.Some(rnd.Patterns, 2) + `}]`
			}
			routes = append(routes, `{"match":[{"host":`+rnd.Some(rnd.Patterns, 3)+not+`}],"terminal":true,"handle":[`+rnd.Pick(handlers, rnd.Blocks(handlers, rnd.Guard()+inner))+`]}`)
		}
		routes = append(routes, `{"handle":[`+rnd.Guard()+inner+`]}`)
		hidden := rnd.IntN(5) == 0
		config := rnd.Policies(`,"default_sni":"a.p3.test"`, `,"fallback_sni":"c.p3.test"`, `,"drop":true`, `,"client_authentication":{`+staff+`}`,
			`,"client_authentication":{"mode":"require_and_verify",`+guests+`}`, `,"client_authentication":{"mode":"verify_if_given",`+staff+`}`) + `,
			"routes":[` + strings.Join(routes, ",") + `],"named_routes":{"n":{"match":[{"host":` + rnd.Some(rnd.Patterns, 3) + `}],"handle":[` + rnd.Guard() + `{"handler":"headers"}]}},
			"errors":{"routes":[{"handle":[{"handler":"static_response","status_code":599}]}]}`
		if hidden {
			config = `"listener_wrappers":[{"wrapper":"test_hiding"}],` + config
		}
		port := testcaddy.FreePort(t)
		run(t, certificates, port, config)
		server := authority.Active()[0]

		for range 40 {
			sni, host := rnd.Pick(append(names, "other.test", "")...), rnd.Pick(append(names, "other.test", "A.p3.TEST:443", "b.p3.test.", "127.0.0.1")...)
			protocol := rnd.Pick("h1", "h2", "h3", "early")
			cert := certs[rnd.IntN(len(certs))]
			status, err := askOnce(t, protocol, port, sni, host, cert)
			if err != nil {
				counts["no connection"]++
				continue
			}
			if lacks := lacking(t, sni, host, cert); lacks != "" && status == 200 && !strings.Contains(config, "report_only") {
				t.Fatalf("%s, SNI %q, host %q: the host is reached, and %s, in %s", protocol, sni, host, lacks, config)
			}
			explained := server.Explain(sni, host)
			if snap := server.Snapshot(); snap.AsksClientCert(sni) && !snap.RequiresClientCert(sni) {
				continue // explain tells of clients that show what they must, and this one shows what it may
			}
			counts[protocol+" "+explained.Answer]++
			want := map[string]string{"pass": "200", "depends": fmt.Sprint(status)}[explained.Answer]
			if want == "" {
				want = explained.Answer
				if explained.ErrorRoutes == "may give the refusal another status" {
					want = "599" // these do
				}
			}
			if hidden && (protocol == "h1" || protocol == "h2") {
				want = "421"
				if status == 599 && strings.Contains(config, "error_routes") {
					want = "599"
				}
			}
			if name, err := hostname.Parse(host); err == nil && protocol == "early" && server.Snapshot().AsksByAddress(name) {
				continue // explain tells of requests whose address is valid
			}
			if got := fmt.Sprint(status); got != want {
				t.Fatalf("%s, SNI %q, host %q: %s, want %s: explained as %+v, in %s", protocol, sni, host, got, want, explained, config)
			}
		}
	}
	for _, what := range []string{"h1 pass", "h2 pass", "h3 pass", "early pass", "h1 421", "h2 421", "h3 421", "early 421", "h1 400"} {
		if counts[what] < rounds/5 {
			t.Errorf("%s: %d times, want more", what, counts[what])
		}
	}
	t.Log(counts)
}

// lacking says, by Caddy's own choice of TLS policies, what a client with a certificate
// on a connection with that SNI does not show although a connection for the host would
// ask for it.
func lacking(t *testing.T, sni, host string, cert tls.Certificate) string {
	t.Helper()
	name, err := hostname.Parse(host)
	if err != nil {
		return ""
	}
	if hostname.IsIP(name) {
		name = "" // which is what clients send for an address
	}
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	choose := app.(*caddyhttp.App).Servers["srv0"].TLSConnPolicies.TLSConfig(caddy.Context{}).GetConfigForClient
	own, err := choose(&tls.ClientHelloInfo{ServerName: name, Conn: loopback{}})
	if err != nil {
		return "" // such a host is the matter of other tests
	}
	had, err := choose(&tls.ClientHelloInfo{ServerName: sni, Conn: loopback{}})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	signed := func(by *tls.Config) bool {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: by.ClientCAs, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err == nil
	}
	// Clients show what they have to those alone who name its CA.
	shown := had.ClientAuth != tls.NoClientCert && (had.ClientCAs == nil || signed(had))
	switch {
	case !shown && own.ClientAuth == tls.RequireAnyClientCert, !shown && own.ClientAuth == tls.RequireAndVerifyClientCert:
		return "no client certificate is shown"
	case shown && own.ClientAuth >= tls.VerifyClientCertIfGiven && !signed(own):
		return "the client certificate is one of another CA"
	}
	return ""
}

// loopback is a connection between two ends on this machine.
type loopback struct{ net.Conn }

func (loopback) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }
func (loopback) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1024} }

// askOnce asks over a connection of its own, with a client certificate if the server
// asks for one. Early data is sent on the second of two.
func askOnce(t *testing.T, protocol string, port int, sni, host string, cert tls.Certificate) (status int, err error) {
	config := clientTLS(sni)
	config.Certificates = []tls.Certificate{cert}
	anybody := net.IPv4(127, 0, 0, 1)
	switch protocol {
	case "h1", "h2":
		config.NextProtos = []string{map[string]string{"h1": "http/1.1", "h2": "h2"}[protocol]}
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
		if err != nil {
			return 0, err
		}
		c.Close()
		status, _, _, err = dial(t, protocol, anybody, port, config).do("GET", host, "")
		return status, err
	case "h3":
		conn, err := tryQUIC(t, packets(t, anybody), port, config)
		if err != nil {
			return 0, err
		}
		status, _, _, err = overHTTP3(conn).do("GET", host, "")
		return status, err
	}
	tickets := &ticketCache{tls.NewLRUClientSessionCache(1), make(chan struct{}, 8)}
	config.ClientSessionCache = tickets
	first, err := tryQUIC(t, packets(t, anybody), port, config)
	if err != nil {
		return 0, err
	}
	if _, _, _, err := overHTTP3(first).do("GET", host, ""); err != nil {
		return 0, err
	}
	conn, err := tryQUIC(t, packets(t, anybody), port, config)
	if err != nil {
		return 0, err
	}
	status, _, _, err = overHTTP3(conn).do(http3.MethodGet0RTT, host, "")
	return status, err
}

// Each handle block of a site has its own gate: whichever runs refuses.
func TestExplainKnowsThatOneOfSeveralGatesRuns(t *testing.T) {
	block := func(match, options string) string {
		return `{"group":"b",` + match + `"handle":[{"handler":"misdirected"` + options + `},{"handler":"static_response","body":"ok"}]}`
	}
	for _, test := range []struct{ name, blocks, answer, altSvc string }{
		{"both refuse", block(`"match":[{"path":["/x"]}],`, "") + `,` + block("", `,"scope":"site"`), "421", "clear"},
		{"one only reports", block(`"match":[{"path":["/x"]}],`, `,"report_only":true`) + `,` + block("", ""), "depends", "clear"},
		{"one keeps HTTP/3", block(`"match":[{"path":["/x"]}],`, `,"alt_svc":"keep"`) + `,` + block("", ""), "421", "depends"},
		{"no block for other paths", block(`"match":[{"path":["/x"]}],`, ""), "depends", "depends"},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := testcaddy.FreePort(t)
			run(t, testcaddy.TLSApp(t, `{}`, []string{"a.p4.test", "b.p4.test"}), port, `"tls_connection_policies":[{}],"routes":[
				{"match":[{"host":["a.p4.test"]}],"terminal":true,"handle":[{"handler":"subroute","routes":[`+test.blocks+`]}]},
				{"match":[{"host":["b.p4.test"]}],"handle":[{"handler":"static_response","body":"ok"}]}]`)
			server := authority.Active()[0]
			if got := server.Explain("b.p4.test", "a.p4.test").Answer; got != test.answer {
				t.Errorf("explained as %s, want %s", got, test.answer)
			}
			list, _ := server.Sites(1)
			if list[0].AltSvc != test.altSvc {
				t.Errorf("Alt-Svc is %s, want %s", list[0].AltSvc, test.altSvc)
			}
			if test.answer == "421" {
				for _, path := range []string{"/", "/x"} {
					if status, _, _, err := dial(t, "h2", nil, port, clientTLS("b.p4.test")).do("GET", "a.p4.test", path); err != nil || status != 421 {
						t.Errorf("%s: %d (%v)", path, status, err)
					}
				}
			}
		})
	}
}

// What a client must show for the SNI is what the policy asks for that this client gets,
// though another one would fit as well.
func TestExplainKnowsWhatTheClientHasShown(t *testing.T) {
	_, staff := clientCA(t, "staff")
	for name, first := range map[string]string{
		"an expression for other names": `"sni_regexp":{"pattern":"^shop[.]"}`,
		"addresses of others":           `"remote_ip":{"ranges":["192.0.2.0/24"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, testcaddy.TLSApp(t, `{}`, wireNames), testcaddy.FreePort(t), `"tls_connection_policies":[
				{"match":{`+first+`},"client_authentication":{"mode":"require"}},
				{"match":{"sni":["vault.wire.test"]},"client_authentication":{`+staff+`}},{}],
				"routes":[{"handle":[{"handler":"misdirected"},{"handler":"static_response","body":"ok"}]}]`)
			if got := authority.Active()[0].Explain("vault.wire.test", "vault.wire.test"); got.Answer != "pass" {
				t.Errorf("the vault on its own connection: %s", got.Answer)
			}
		})
	}
}
