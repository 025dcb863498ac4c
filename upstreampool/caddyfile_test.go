package upstreampool

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func parse(block string) (*Transport, error) {
	tr := Transport{}.CaddyModule().New().(*Transport)
	err := tr.UnmarshalCaddyfile(caddyfile.NewTestDispenser("upstreampool {\n" + block + "\n}"))
	return tr, err
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every option of transport http gives the JSON that it gives there, alone and
// between options of ours.
func TestCaddyfileStockOptions(t *testing.T) {
	for _, block := range []string{
		"read_buffer 8KiB", "write_buffer 8KiB", "read_timeout 10s", "write_timeout 10s", "max_response_header 1MiB",
		"proxy_protocol v1", "proxy_protocol v2", "network_proxy url http://proxy.test:3128", "network_proxy none",
		"forward_proxy_url http://proxy.test:3128",
		"dial_timeout 1s", "dial_fallback_delay 100ms", "response_header_timeout 3s", "expect_continue_timeout 1s",
		"resolvers 1.1.1.1 8.8.8.8", "tls", "tls_client_auth client.test", "tls_client_auth cert.pem key.pem",
		"tls_insecure_skip_verify", "tls_curves x25519 secp256r1", "tls_timeout 5s", "tls_trusted_ca_certs a.pem b.pem",
		"tls_trust_pool file a.pem", "tls_trust_pool file {\n\tpem_file a.pem b.pem\n}", "tls_server_name a.test",
		"tls_server_name {http.request.host}", "tls_renegotiation once", "tls_except_ports 80 8080",
		"keepalive 30s", "keepalive off", "keepalive_interval 10s", "keepalive_idle_conns 50", "keepalive_idle_conns_per_host 60",
		"versions 1.1", "versions 1.1 2", "versions h2c 2", "versions 3", "compression off", "max_conns_per_host 7",
		"local_address 127.0.0.1",
		"tls\ntls_server_name \"a.test\"\ntls_timeout 1s\ndial_timeout `2s`",
	} {
		t.Run(strings.ReplaceAll(block, "\n", ";"), func(t *testing.T) {
			stock := new(reverseproxy.HTTPTransport)
			if err := stock.UnmarshalCaddyfile(caddyfile.NewTestDispenser("http {\n" + block + "\n}")); err != nil {
				t.Fatalf("transport http refuses it: %v", err)
			}
			want := encode(t, stock)
			tr, err := parse(block)
			if err != nil {
				t.Fatal(err)
			}
			if got := encode(t, tr); got != want {
				t.Errorf("JSON = %s\n  want %s", got, want)
			}
			tr, err = parse("unacked_timeout 5s\n" + block + "\nmax_pending 2")
			if block == "versions 3" {
				return // that is refused, see TestCaddyfileRefused
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := encode(t, tr.HTTPTransport); got != want || tr.MaxPending != 2 {
				t.Errorf("between options of ours: JSON = %s\n  want %s", got, want)
			}
		})
	}
}

func TestCaddyfileOwnOptions(t *testing.T) {
	for _, tc := range []struct{ block, json string }{
		{"", `{}`},
		{"max_idle_time 1m", `{"max_idle_time":60000000000}`},
		{"upstream_keep_alive 1d", `{"upstream_keep_alive":86400000000000}`},
		{"upstream_keep_alive learn", `{}`},
		{"margin 50ms", `{"margin":50000000}`},
		{"max_lifetime 10s", `{"max_lifetime":10000000000}`},
		{"max_lifetime 10s 0%", `{"max_lifetime":10000000000,"max_lifetime_jitter":0}`},
		{"max_lifetime 10s 25%", `{"max_lifetime":10000000000,"max_lifetime_jitter":25}`},
		{"max_requests 1000", `{"max_requests":1000}`},
		{"max_pending 5", `{"max_pending":5}`},
		{"acquire_timeout 1s", `{"acquire_timeout":1000000000}`},
		{"min_idle 3", `{"min_idle":3}`},
		{"unacked_timeout 10s", `{"unacked_timeout":10000000000}`},
		{"ping_interval off", `{}`},
		{"ping_interval 1m", `{"ping_interval":60000000000}`},
		{"ping_interval 1m\nping_timeout 5s", `{"ping_interval":60000000000,"ping_timeout":5000000000}`},
		{"remember on", `{}`},
		{"remember off", `{"remember":false}`},
		{"follow_dns 1m", `{"follow_dns":60000000000}`},
		{"follow_dns off", `{"follow_dns":-1}`},
	} {
		t.Run(tc.block, func(t *testing.T) {
			tr, err := parse(tc.block)
			if err != nil {
				t.Fatal(err)
			}
			if got := encode(t, tr); got != tc.json {
				t.Errorf("JSON = %s, want %s", got, tc.json)
			}
			again := Transport{}.CaddyModule().New().(*Transport)
			if err := json.Unmarshal([]byte(tc.json), again); err != nil || encode(t, again) != tc.json {
				t.Errorf("read back = %s, %v", encode(t, again), err)
			}
		})
	}
}

func TestCaddyfileRefused(t *testing.T) {
	for _, tc := range []struct{ block, want string }{
		{"margin 1s\nmargin 2s", "option 'margin' is given twice"},
		{"dial_timeout 1s\nmargin 1s\ndial_timeout 1s", "option 'dial_timeout' is given twice"},
		{"tls_server_name a\ntls_server_name a", "option 'tls_server_name' is given twice"},
		{"max_idle 1s", "unrecognized subdirective max_idle"},
		{"dial_timeout 1s 2s", "unrecognized subdirective 2s"},
		{"margin", "wrong argument count"},
		{"margin 1s 2s", "wrong argument count"},
		{"margin 1s {\n\tfoo\n}", "option 'margin' takes no block"},
		{"max_lifetime 1s 2% 3%", "wrong argument count"},
		{"margin 0", "parsing margin '0': must be more than zero"},
		{"max_idle_time -1s", "parsing max_idle_time '-1s': must be more than zero"},
		{"max_idle_time soon", "parsing max_idle_time 'soon':"},
		{"upstream_keep_alive never", "parsing upstream_keep_alive 'never':"},
		{"max_lifetime 1s 10", "parsing max_lifetime jitter '10': must be from 0% to 100%"},
		{"max_lifetime 1s 101%", "parsing max_lifetime jitter '101%': must be from 0% to 100%"},
		{"max_requests 0", "parsing max_requests '0': must be a whole number above zero"},
		{"max_pending -1", "parsing max_pending '-1': must be a whole number above zero"},
		{"remember maybe", "parsing remember 'maybe': must be on or off"},
		{"follow_dns 0", "parsing follow_dns '0': must be more than zero"},
		{"follow_dns -1", "parsing follow_dns '-1': must be a duration, or off"},
		{"follow_dns on", "parsing follow_dns 'on': must be a duration, or off"},
		{"follow_dns off 30s", "wrong argument count"},
		{"follow_dns 1ms", "checking follow_dns '1ms': must be at least 10ms, or off"},
		{"keepalive off\nfollow_dns 30s", "checking follow_dns '30s': keepalive is off"},
		{"min_idle 1.5", "parsing min_idle '1.5': must be a whole number above zero"},
		{"max_idle_time 5s\nupstream_keep_alive 5s", "checking max_idle_time '5s': must be less than upstream_keep_alive '5s'"},
		{"keepalive 6s\nupstream_keep_alive 5s", "checking keepalive '6s': must be less than upstream_keep_alive '5s'"},
		{"margin 5s\nupstream_keep_alive 5s", "checking margin '5s': must be less than upstream_keep_alive '5s'"},
		{"margin 3s\nupstream_keep_alive 5s", "checking margin '3s': must be at most half of upstream_keep_alive '5s'"},
		{"keepalive 30s\nmax_idle_time 30s", "checking max_idle_time '30s': keepalive '30s' means the same"},
		{"keepalive off\nmax_idle_time 30s", "checking max_idle_time '30s': keepalive is off"},
		{"keepalive off\nmin_idle 2", "checking min_idle '2': keepalive is off"},
		{"keepalive off\nupstream_keep_alive 30s", "checking upstream_keep_alive '30s': keepalive is off"},
		{"keepalive off\nmargin 1s", "checking margin '1s': keepalive is off"},
		{"keepalive off\nmax_lifetime 1h", "checking max_lifetime '1h0m0s': keepalive is off"},
		{"keepalive off\nmax_requests 5", "checking max_requests '5': keepalive is off"},
		{"keepalive_idle_conns_per_host -1\nmax_idle_time 30s", "checking max_idle_time '30s': keepalive_idle_conns_per_host '-1' means that no connection is reused"},
		{"keepalive_idle_conns_per_host -1\nmin_idle 2", "checking min_idle '2': keepalive_idle_conns_per_host '-1' means that no connection is reused"},
		{"versions 3\nmin_idle 2", "checking min_idle '2': versions 3 leaves requests to transport http, which does not know it"},
		{"versions 3\nacquire_timeout 2s", "checking acquire_timeout '2s': versions 3 leaves"},
		{"versions 3\nping_interval 2s", "checking ping_interval '2s': versions 3 leaves"},
		{"max_conns_per_host 2\nmin_idle 3", "checking min_idle '3': must be at most max_conns_per_host '2'"},
		{"keepalive_idle_conns_per_host 2\nmin_idle 3", "checking min_idle '3': must be at most keepalive_idle_conns_per_host '2'"},
		{"keepalive_idle_conns 2\nmin_idle 3", "checking min_idle '3': must be at most keepalive_idle_conns '2'"},
		{"keepalive_idle_conns -2", "checking keepalive_idle_conns '-2': must be a number of connections, or -1 for no limit"},
		{"min_idle 2\nproxy_protocol v2", "checking min_idle '2': proxy_protocol 'v2' makes a connection of each client's address its own"},
		{"min_idle 2\ntls_server_name {host}.test", "checking min_idle '2': tls_server_name '{host}.test' makes connections of each name their own"},
		{"min_idle 1025", "checking min_idle '1025': must be at most keepalive_idle_conns_per_host '1024'"},
	} {
		t.Run(strings.ReplaceAll(tc.block, "\n", ";"), func(t *testing.T) {
			tr, err := parse(tc.block)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want %q; got %s", err, tc.want, encode(t, tr))
			}
		})
	}
	t.Run("arguments", func(t *testing.T) {
		tr := Transport{}.CaddyModule().New().(*Transport)
		if err := tr.UnmarshalCaddyfile(caddyfile.NewTestDispenser("upstreampool x")); err == nil {
			t.Error("no error")
		}
	})
	for _, block := range []string{ // these have an effect, or say what is so anyway
		"keepalive off\nmax_pending 5\nacquire_timeout 1s\nunacked_timeout 5s\nping_interval 5s",
		"keepalive off\nfollow_dns off\nremember off",
		"keepalive_idle_conns_per_host 1\nmax_requests 5\nmin_idle 1",
		"versions 3\nfollow_dns off\nremember off\nkeepalive 30s\nmax_conns_per_host 5",
	} {
		t.Run(strings.ReplaceAll(block, "\n", ";"), func(t *testing.T) {
			if _, err := parse(block); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("all problems at once, from JSON", func(t *testing.T) {
		tr := Transport{}.CaddyModule().New().(*Transport)
		if err := json.Unmarshal([]byte(`{"margin":-1,"max_requests":-2,"max_lifetime_jitter":200,"follow_dns":-2,"resolver":{}}`), tr); err != nil {
			t.Fatal(err)
		}
		err := tr.check(nil)
		for _, want := range []string{"margin '-1ns'", "follow_dns '-2ns': must not be negative, but for -1", "max_requests '-2'", "resolver: must have at least one address", "jitter '200': must be", "jitter '200': needs"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error = %v, want %q in it", err, want)
			}
		}
	})
}
