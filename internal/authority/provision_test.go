package authority

import (
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// provision loads a config as Caddy does, short of starting it: no listener is
// opened, and the servers can be asked directly. Logs go to log, if given, as
// JSON lines.
func provision(t *testing.T, apps string, log ...string) caddy.Context {
	t.Helper()
	writer := `{"output":"discard"}`
	if len(log) > 0 {
		writer = `{"output":"file","filename":"` + log[0] + `"}`
	}
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(`{
		"admin": {"disabled": true},
		"storage": {"module": "file_system", "root": "`+t.TempDir()+`"},
		"logging": {"logs": {"default": {"level": "DEBUG", "writer": `+writer+`}}},
		"apps": `+apps+`
	}`), &cfg); err != nil {
		t.Fatalf("test config: %v", err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}
