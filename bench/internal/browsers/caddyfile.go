package browsers

import (
	"fmt"
	"strings"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
)

const (
	domain = "page.test"
	images = 4 // of each host
)

// hosts are the four of the page. One certificate covers them.
var hosts = []string{"a." + domain, "b." + domain, "c." + domain, "d." + domain}

// A scenario is how the page is served, by a Caddy that is otherwise as it is by
// default, HTTP/3 included.
type scenario struct {
	name   string
	gate   string // directive in all sites
	origin string // block of the listener wrapper; "-" is no wrapper
	strict bool   // stock's strict_sni_host
	apart  bool   // each host has an address of its own
	quick  bool
}

const certificate = "misdirected {\n\t\tscope certificate\n\t}"

var (
	open         = scenario{name: "no gate, no frames", origin: "-"}
	strictSNI    = scenario{name: "stock: `strict_sni_host on`", origin: "-", strict: true}
	exact        = scenario{name: "scope sni, no frames", gate: "misdirected", origin: "-"}
	exactFrames  = scenario{name: "scope sni, ORIGIN", gate: "misdirected", quick: true}
	keep         = scenario{name: "scope sni, ORIGIN, `alt_svc keep`", gate: "misdirected {\n\t\talt_svc keep\n\t}"}
	covered      = scenario{name: "scope certificate, ORIGIN", gate: certificate, origin: "origins sites"}
	coveredHTTP3 = scenario{name: "scope certificate, ORIGIN, `http3`", gate: certificate, origin: "origins sites\n\t\t\t\thttp3"}
	strictApart  = scenario{name: "4 addresses, stock: `strict_sni_host on`", origin: "-", strict: true, apart: true}
	exactApart   = scenario{name: "4 addresses, scope sni, ORIGIN", gate: "misdirected", apart: true}
	openApart    = scenario{name: "4 addresses, no gate, no frames", origin: "-", apart: true}
	coveredApart = scenario{name: "4 addresses, scope certificate, ORIGIN", gate: certificate, origin: "origins sites", apart: true}
	http3Apart   = scenario{name: "4 addresses, scope certificate, ORIGIN, `http3`", gate: certificate, origin: coveredHTTP3.origin, apart: true, quick: true}

	scenarios = []scenario{open, strictSNI, exact, exactFrames, keep, covered, coveredHTTP3,
		openApart, strictApart, exactApart, coveredApart, http3Apart}
)

// caddyfile serves each scenario at a port of its own.
func caddyfile(state string, chosen []scenario, ports []string, visits int) string {
	var options, sites strings.Builder
	for i, s := range chosen {
		strict := "insecure_off"
		if s.strict {
			strict = "on"
		}
		fmt.Fprintf(&options, "\tservers 127.0.0.1:%s {\n\t\tstrict_sni_host %s\n", ports[i], strict)
		if s.origin != "-" {
			fmt.Fprintf(&options, "\t\tlistener_wrappers {\n\t\t\torigin {\n\t\t\t\t%s\n\t\t\t}\n\t\t}\n", s.origin)
		}
		options.WriteString("\t}\n")
		var addresses []string
		for _, host := range append([]string{"*." + domain}, hosts...) {
			addresses = append(addresses, host+":"+ports[i])
		}
		fmt.Fprintf(&sites, "\n%s {\n\tlog\n\t%s\n\t%s\n}\n", strings.Join(addresses, ", "), s.gate, browser.ImageSite(hosts, images, visits))
	}
	return fmt.Sprintf("{\n\tadmin off\n\tdefault_bind 127.0.0.1\n\tauto_https disable_redirects\n\tlocal_certs\n\tskip_install_trust\n"+
		"\tpersist_config off\n\tgrace_period 2s\n\tstorage file_system %s\n%s}\n%s", state, options.String(), sites.String())
}
