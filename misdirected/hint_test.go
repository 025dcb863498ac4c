package misdirected

import (
	"net"
	"strings"
	"testing"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	"github.com/caddy-connreuse/connreuse/internal/test/poll"
)

// A certificate that nobody knew of at start leads clients of one site to another one,
// which refuses them. The log says what to do about it as soon as that has happened, and
// says it once.
func TestHintsOfACertificateThatComesLater(t *testing.T) {
	port := testcaddy.FreePort(t)
	site := func(host, handlers string) string {
		return `{"match":[{"host":["` + host + `"]}],"terminal":true,"handle":[` + handlers + `]}`
	}
	log := run(t, `"tls":{}`, port, `"tls_connection_policies":[{}],"routes":[`+
		site("guarded.late.test", `{"handler":"misdirected"},`+witnessing("guarded"))+`,`+site("open.late.test", witnessing("open"))+`]`)
	// Caddy's cache of certificates is that of the process.
	testcaddy.Provision(t, `{`+testcaddy.TLSApp(t, `{}`, []string{"*.late.test"})+`}`, "")

	hints := func() (n [2]int) {
		text := readFile(t, log)
		for i, part := range []string{"put misdirected { scope certificate } into them", "add the origin listener wrapper"} {
			n[i] = strings.Count(text, part)
		}
		return n
	}
	conns := make(map[string]wire)
	for _, protocol := range []string{"h1", "h2", "h3"} {
		conns[protocol] = dial(t, protocol, net.IPv4(127, 0, 0, 1), port, clientTLS("open.late.test"))
	}
	ask := func(protocol, host string, want int) {
		t.Helper()
		if status, _, _, err := conns[protocol].do("GET", host, ""); err != nil || status != want {
			t.Fatalf("%s, %s: %d (%v), want %d", protocol, host, status, err, want)
		}
	}
	for protocol := range conns {
		ask(protocol, "open.late.test", 200)
	}
	if n := hints(); n != [2]int{} {
		t.Errorf("%d hints before anything was refused", n)
	}
	poll.Until(t, "the hints", func() bool { // what is presented is read once a second
		ask("h2", "guarded.late.test", 421)
		return hints() != [2]int{}
	})
	for protocol := range conns {
		ask(protocol, "guarded.late.test", 421)
	}
	if n := hints(); n != [2]int{1, 1} {
		t.Errorf("%d hints after several refusals, want one of each kind", n)
	}
	witnessed()
}
