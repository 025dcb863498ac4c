package misdirected

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	testcert "github.com/caddy-connreuse/connreuse/internal/test/cert"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/race"
)

// It asks random servers over real connections, and compares each answer with what
// explain says of it. Some have default_sni or fallback_sni, error routes, or a
// listener wrapper that hides TLS; some requests are early data.
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
	cert, err := testcert.SelfSigned("client")
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	rounds := needs.InLong(25, 8)
	for range rounds {
		const inner = `{"handler":"static_response","body":"ok"}`
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
		config := rnd.Policies(`,"default_sni":"a.p3.test"`, `,"fallback_sni":"c.p3.test"`, `,"drop":true`) + `,"routes":[` + strings.Join(routes, ",") + `],
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
			status, err := askOnce(t, protocol, port, sni, host, cert)
			if err != nil {
				counts["no connection"]++
				continue
			}
			explained := server.Explain(sni, host)
			if snap := server.Snapshot(); snap.AsksClientCert(sni) && !snap.RequiresClientCert(sni) && status == 200 {
				continue // explain tells of clients that show what they must, and this one shows what it may
			}
			counts[protocol+" "+explained.Answer]++
			want := map[string]string{"pass": "200", "depends": fmt.Sprint(status)}[explained.Answer]
			if want == "" {
				want = explained.Answer
				if status == 599 && strings.Contains(config, "error_routes") {
					want = "599"
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
