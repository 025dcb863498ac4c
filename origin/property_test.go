package origin

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-connreuse/connreuse/internal/authority"
	"github.com/caddy-connreuse/connreuse/internal/hostname"
	testcaddy "github.com/caddy-connreuse/connreuse/internal/test/caddy"
	_ "github.com/caddy-connreuse/connreuse/misdirected"
)

func init() { caddy.RegisterModule(probe{}) }

// probe is a handler that has wrappers of the server it is in.
type probe struct {
	Wrappers []*ListenerWrapper `json:"wrappers"`
	server   *authority.Server
}

func (probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_probe", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) Provision(ctx caddy.Context) (err error) {
	for _, w := range p.Wrappers {
		if err := w.Provision(ctx); err != nil {
			return err
		}
	}
	p.server, err = authority.ForServer(ctx)
	return err
}

func (p *probe) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return next.ServeHTTP(w, r)
}

// It compares, over random configurations and all names, what is advertised
// with what a server does and with the definition:
//
//   - M23 RFC 8336 2.3: an advertised origin is not answered 421, nor is the own;
//   - O13 it is covered by the certificate, O15 and never asked for its client
//     certificate in another way; O4 it is no wildcard;
//   - each exact name that meets the definition is advertised, up to max_origins
//     (O14), or as listed.
//
// Checklist: M23, O4, O13, O14, O15.
func TestAdvertisedIsNeverRefusedInRandomConfigurations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	names := []string{"a.p2.test", "b.p2.test", "c.p2.test", "x.w.p2.test", "y.w.p2.test", "n.p2.test", "v.u.p2.test", "192.0.2.7"}
	patterns := append([]string{"*.p2.test", "*.w.p2.test", "*.*.p2.test"}, names...)
	some := func(from []string, most int) string {
		var list []string
		for _, i := range rnd.Perm(len(from))[:1+rnd.IntN(most)] {
			list = append(list, `"`+from[i]+`"`)
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	guard := func() string {
		share := ""
		if rnd.IntN(4) == 0 {
			share = `,"share":[["` + names[0] + `","` + names[1+rnd.IntN(2)] + `"]` + pick("", `,["x.w.p2.test","y.w.p2.test"]`) + `]`
		}
		return `{"handler":"misdirected","scope":"` + pick("sni", "site", "certificate") + `"` + share + pick("", "", `,"report_only":true`) + `},`
	}
	issued := [][]string{
		{"a.p2.test", "b.p2.test", "x.w.p2.test", "192.0.2.7"},
		{"b.p2.test", "c.p2.test"},
		{"*.w.p2.test", "c.p2.test", "n.p2.test"},
		{"*.p2.test"},
		{"v.u.p2.test", "a.p2.test", "other.p2.test"},
	}
	certificates := testcaddy.TLSApp(t, `{}`, issued...)
	counts := make(map[string]int)
	for range 300 {
		var policies, routes []string
		for range rnd.IntN(4) {
			policies = append(policies, `{"match":{"sni":`+some(patterns, 3)+pick("", "", `,"remote_ip":{"ranges":["10.0.0.0/8"]}`)+`}`+pick("", `,"client_authentication":{"mode":"require"}`, `,"client_authentication":{"mode":"request"}`, `,"alpn":["h2"]`)+`}`)
		}
		policies = append(policies, pick(`{}`, `{}`, `{"client_authentication":{"mode":"require"}}`))
		for range rnd.IntN(6) {
			handlers := `{"handler":"static_response","body":"site"}`
			if rnd.IntN(2) == 0 {
				handlers = guard() + handlers
			}
			routes = append(routes, `{"match":[{"host":`+some(patterns, 3)+`}],"terminal":true,"handle":[`+pick(
				handlers,
				`{"handler":"subroute","routes":[{"match":[{"host":`+some(patterns, 3)+`}],"handle":[`+handlers+`]}]}`)+`]}`)
		}
		listed := rnd.Perm(len(names))[:1+rnd.IntN(len(names))]
		var list []string
		for _, i := range listed {
			list = append(list, `"https://`+names[i]+`"`)
		}
		most := 1 + rnd.IntN(8)
		routes = append(routes, fmt.Sprintf(`{"match":[{"host":["nobody.test"]}],"handle":[{"handler":"test_probe","wrappers":[{"max_origins":%d},{"origins":[%s]},{"origins":["none"]}]}]}`, most, strings.Join(list, ",")))
		if rnd.IntN(2) == 0 {
			routes = append(routes, `{"handle":[`+pick("", guard())+`{"handler":"static_response","body":"catch-all"}]}`)
		}
		config := `"strict_sni_host":` + pick("true", "false", "false") + `,"tls_connection_policies":[` + strings.Join(policies, ",") + `],"routes":[` + strings.Join(routes, ",") + `]`
		srv := testcaddy.HTTPServer(t, testcaddy.Provision(t, `{`+certificates+`,"http":{"servers":{"srv0":{`+testcaddy.NoRedirects+`,`+config+`}}}}`, ""))
		var p *probe
		for _, route := range srv.Routes {
			if found, ok := route.Handlers[0].(*probe); ok {
				p = found
			}
		}
		s := p.server.Snapshot()
		advertised := func(w *ListenerWrapper, sni string) []string {
			return slices.Concat(decode(t, w.frames(sni, &net.TCPAddr{Port: 443}).bytes)...)
		}

		universe := slices.Concat(append([][]string{names}, issued...)...)
		universe = slices.DeleteFunc(universe, func(name string) bool { return strings.Contains(name, "*") })
		slices.Sort(universe)
		universe = slices.Compact(universe)
		// in two rounds, so that what is kept is used as well
		snis := append(slices.Clone(names), "made-up.w.p2.test", "made-up.p2.test", "other.test", "A.P2.test", "")
		for range 2 {
			for _, sni := range snis {
				canonical, _ := hostname.ParseSNI(sni)
				var want, wantListed []string
				for _, host := range universe {
					// a name that is in neither the certificate nor a route is
					// not found under a wildcard
					if host != canonical && s.Advertised(canonical, host) && found(config, issued, canonical, host) {
						want = append(want, "https://"+host)
					}
				}
				for _, i := range listed {
					if names[i] != canonical && s.Advertised(canonical, names[i]) {
						wantListed = append(wantListed, "https://"+names[i])
					}
				}
				if len(want) > most {
					counts["cut"]++
					want = want[:most]
				}
				got := advertised(p.Wrappers[0], sni)
				if !slices.Equal(got, want) {
					t.Fatalf("SNI %q: automatic origins are %v, want %v, in %s", sni, got, want, config)
				}
				gotListed := advertised(p.Wrappers[1], sni)
				if !slices.Equal(gotListed, wantListed) {
					t.Fatalf("SNI %q: of the list, %v, want %v, in %s", sni, gotListed, wantListed, config)
				}
				if none := advertised(p.Wrappers[2], sni); len(none) != 0 {
					t.Fatalf("SNI %q: %v, want none", sni, none)
				}
				for _, o := range append(got, gotListed...) {
					host := strings.TrimPrefix(o, "https://")
					counts["advertised"]++
					switch status := testcaddy.Get(srv, sni, host).Code; {
					case status != 200:
						t.Fatalf("SNI %q: %s is advertised, and answered %d, in %s", sni, o, status, config)
					case !s.CertificateCovers(canonical, host):
						t.Fatalf("SNI %q: %s is advertised, and not in its certificate, in %s", sni, o, config)
					case !s.SameClientAuth(canonical, host):
						t.Fatalf("SNI %q: %s is advertised, and has another rule for client certificates, in %s", sni, o, config)
					case strings.Contains(o, "*"):
						t.Fatalf("SNI %q: %s is advertised, in %s", sni, o, config)
					}
				}
				if canonical != "" && len(got) > 0 {
					if status := testcaddy.Get(srv, sni, sni).Code; status != 200 {
						t.Fatalf("SNI %q: its own origin is answered %d, in %s", sni, status, config)
					}
				}
			}
		}
	}
	for _, what := range []string{"advertised", "cut"} {
		if counts[what] < 100 {
			t.Errorf("%s: %d times, want more", what, counts[what])
		}
	}
	t.Log(counts)
}

// found tells whether a name is one that certificate and routes name: there is a
// certificate for the SNI with just that name in it, or a host matcher with it.
func found(config string, issued [][]string, sni, host string) bool {
	for _, match := range strings.Split(config, `"host":[`)[1:] {
		list, _, _ := strings.Cut(match, "]")
		if strings.Contains(list, `"`+host+`"`) {
			return true
		}
	}
	return slices.ContainsFunc(issued, func(certificate []string) bool {
		return slices.Contains(certificate, host) && slices.ContainsFunc(certificate, func(name string) bool {
			return name == sni || strings.HasPrefix(name, "*.") && hostname.Parent(sni) == name[2:]
		})
	})
}
