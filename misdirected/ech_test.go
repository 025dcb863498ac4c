package misdirected

import (
	"encoding/binary"
	"net"
	"path"
	"testing"

	"github.com/caddyserver/caddy/v2"

	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
)

// With an encrypted hello, what counts is the server name inside. The public name, which
// everybody sees, is a host like any other.
//
// Checklist: M15, M16.
func TestEncryptedHelloIsJudgedByTheNameInside(t *testing.T) {
	port := testcaddy.FreePort(t)
	const public = "other.wire.test"
	run(t, testcaddy.TLSApp(t, `{"policies":[{"issuers":[{"module":"internal"}]}]},"encrypted_client_hello":{"configs":[{"public_name":"`+public+`"}]}`, wireNames)+
		`,"pki":{"certificate_authorities":{"local":{"install_trust":false}}}`, port,
		`"tls_connection_policies":[{"match":{"sni":["vault.wire.test"]},"client_authentication":{"mode":"require"}},{}],
		"routes":[{"handle":[{"handler":"misdirected"},`+witnessing("site")+`]}]`)

	for _, protocol := range []string{"h1", "h2", "h3"} {
		for _, test := range []struct {
			host string
			want int
		}{
			{"shop.wire.test", 200}, {"blog.wire.test", 421}, {public, 421}, {"vault.wire.test", 421},
		} {
			config := clientTLS("shop.wire.test")
			config.EncryptedClientHelloConfigList = published(t)
			status, _, _, err := dial(t, protocol, net.IPv4(127, 0, 0, 1), port, config).do("GET", test.host, "")
			saw := witnessed()
			if err != nil || status != test.want || (len(saw) > 0) != (test.want == 200) {
				t.Errorf("%s, host %s: %d (%v), seen by %q, want %d", protocol, test.host, status, err, saw, test.want)
			}
		}
	}
}

// published is the list of the configurations for encrypted hellos, as clients find it
// in the DNS.
func published(t *testing.T) []byte {
	t.Helper()
	ctx := caddy.ActiveContext()
	folders, err := ctx.Storage().List(ctx, "ech/configs", false)
	if err != nil || len(folders) != 1 {
		t.Fatalf("stored configurations: %q (%v), want one", folders, err)
	}
	config, err := ctx.Storage().Load(ctx, path.Join(folders[0], "config.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(config))), config...)
}
