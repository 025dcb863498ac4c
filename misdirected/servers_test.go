package misdirected

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/test/cputime"
	_ "github.com/caddy-connreuse/connreuse/origin"
)

// lastMissed are what the last test_blocks directive in a Caddyfile saw.
var lastMissed []string

func init() {
	httpcaddyfile.RegisterHandlerDirective("test_blocks", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		lastMissed = missedBlocks(serversBlocks(h.Option("servers")), listenAddresses(h, siteOf(h)))
		return new(Handler), nil
	})
	httpcaddyfile.RegisterDirectiveOrder("test_blocks", httpcaddyfile.Before, "header")
}

// A servers block that is meant for a site and does not apply to it is noticed
// where the Caddyfile is read: JSON has no trace of it.
func TestServersBlocksThatDoNotApply(t *testing.T) {
	const (
		origin = "{\n\t\tlistener_wrappers {\n\t\t\torigin\n\t\t}\n\t}\n"
		off    = "{\n\t\tstrict_sni_host insecure_off\n\t}\n"
		both   = "{\n\t\tstrict_sni_host insecure_off\n\t\tlistener_wrappers {\n\t\t\torigin\n\t\t}\n\t}\n"
	)
	for _, test := range []struct {
		name, global, site string
		want               string // "" is none
	}{
		{"two blocks that cancel each other", "servers :443 " + off + "servers " + origin, "a.test {\ntest_blocks\n}", "'servers :443' instead of 'servers'"},
		{"in the other order", "servers " + origin + "servers :443 " + off, "a.test {\ntest_blocks\n}", "'servers :443' instead of 'servers'"},
		{"with another HTTPS port", "https_port 8443\nservers :8443 " + off + "servers " + origin, "a.test {\ntest_blocks\n}", "'servers :8443' instead of 'servers'"},
		{"one block with both", "servers :443 " + both, "a.test {\ntest_blocks\n}", ""},
		{"both have it", "servers :443 " + both + "servers " + origin, "a.test {\ntest_blocks\n}", ""},
		{"a block for plain HTTP", "servers :80 {\nname plain\n}\nservers " + both, "a.test {\ntest_blocks\n}", ""},
		{"a block for another port", "servers :8443 " + off + "servers " + origin, "a.test {\ntest_blocks\n}", ""},
		{"default_bind", "default_bind 127.0.0.1\nservers :443 " + both, "a.test {\ntest_blocks\n}", "'servers :443' must name an address as the server listens on it: 127.0.0.1:443"},
		{"bind", "servers :443 " + off, "a.test {\nbind 127.0.0.1 ::1\ntest_blocks\n}", "as the server listens on it: 127.0.0.1:443, [::1]:443"},
		{"bind, and a block for it", "servers 127.0.0.1:443 " + both, "a.test {\nbind 127.0.0.1\ntest_blocks\n}", ""},
		{"a key with a port", "servers :443 " + both, "a.test:8443 {\ntest_blocks\n}", ""},
		{"a plain site", "servers :443 " + off + "servers " + origin, "http://a.test {\ntest_blocks\n}", ""},
		{"no blocks", "", "a.test {\ntest_blocks\n}", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			lastMissed = []string{"the directive was not read"}
			text := "{\n" + test.global + "\n}\n" + test.site + "\n"
			if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"}); err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if test.want == "" && len(lastMissed) > 0 || test.want != "" && !slices.ContainsFunc(lastMissed, func(s string) bool { return strings.Contains(s, test.want) }) {
				t.Errorf("says %q, want %q", lastMissed, test.want)
			}
		})
	}
}

// A site is looked at once, however many of its blocks are guarded: to read them takes
// about as long as to read as many others.
func TestGuardedBlocksAreReadInLinearTime(t *testing.T) {
	read := func(directive string) time.Duration {
		var text strings.Builder
		text.WriteString("*.a.test {\n")
		for i := range 800 {
			fmt.Fprintf(&text, "@%d host %[1]d.a.test\nhandle @%[1]d {\n%s\nrespond ok\n}\n", i, directive)
		}
		text.WriteString("}\n")
		return cputime.Of(t, func() {
			if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text.String()), map[string]any{"filename": "Caddyfile"}); err != nil {
				t.Fatal(err)
			}
		})
	}
	var ratios []float64
	for range 5 {
		ratios = append(ratios, float64(read("misdirected"))/float64(read("header X y")))
	}
	slices.Sort(ratios)
	if ratios[2] > 3 {
		t.Errorf("guarded blocks take %.1f times as long as others, want at most 3", ratios[2])
	}
}

// A Caddy that keeps its servers blocks in another way is no reason to panic: nothing is
// read then.
func TestServersBlocksOfAnotherCaddy(t *testing.T) {
	type block struct {
		ListenerAddress     string
		ListenerWrappersRaw []json.RawMessage
		StrictSNIHost       *bool
	}
	want := []serversBlock{{address: ":443", origin: true, strict: true}}
	asNow := []block{{":443", []json.RawMessage{[]byte(`{"wrapper":"tls"}`), []byte(`{"wrapper":"origin"}`)}, new(bool)}}
	if got := serversBlocks(asNow); !slices.Equal(got, want) {
		t.Errorf("as it is now, %+v is read, want %+v", got, want)
	}
	for name, option := range map[string]any{
		"nothing":            nil,
		"no list":            block{},
		"pointers to blocks": []*block{new(block)},
		"other names":        []struct{ Address string }{{":443"}},
		"names of wrappers": []struct {
			ListenerAddress     string
			ListenerWrappersRaw []string
			StrictSNIHost       *bool
		}{{":443", []string{"origin"}, nil}},
		"decoded wrappers": []struct {
			ListenerAddress     string
			ListenerWrappersRaw []any
			StrictSNIHost       *bool
		}{{":443", []any{"origin"}, nil}},
		"a map of wrappers": []struct {
			ListenerAddress     string
			ListenerWrappersRaw map[string]json.RawMessage
			StrictSNIHost       *bool
		}{{":443", map[string]json.RawMessage{"origin": nil}, nil}},
		"a list of addresses": []struct {
			ListenerAddress     []string
			ListenerWrappersRaw []json.RawMessage
			StrictSNIHost       *bool
		}{{[]string{":443"}, nil, nil}},
		"no pointer": []struct {
			ListenerAddress     string
			ListenerWrappersRaw []json.RawMessage
			StrictSNIHost       bool
		}{{":443", nil, true}},
	} {
		if got := serversBlocks(option); got != nil {
			t.Errorf("%s: %+v is read", name, got)
		}
	}
}
