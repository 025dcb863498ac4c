package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
)

// Chromium obeys ORIGIN frames on HTTP/3: hosts at four addresses share one QUIC
// connection as soon as HTTP/3 is known, but for those that the frame does not name.
//
// Checklist: O20.
func TestChromiumObeysFramesOnHTTP3(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, origin string
		want         int // QUIC connections of the last visit
	}{
		{"without frames", "origins sites", 4},
		{"with frames", "origins sites\n\t\t\t\thttp3", 1},
		{"one host is not listed", "origins https://a.site.test:{$PORT} https://b.site.test:{$PORT} https://c.site.test:{$PORT}\n\t\t\t\thttp3", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			visits := apartOnHTTP3(t, test.origin)
			last := visits[len(visits)-1]
			var connections []string
			for _, connection := range slices.Sorted(maps.Keys(last.Connections)) {
				if strings.HasPrefix(connection, "HTTP/3.0 ") {
					connections = append(connections, fmt.Sprint(last.Connections[connection]))
				}
			}
			if len(connections) != test.want || last.Protocols["HTTP/3.0"] == 0 {
				t.Errorf("the last visit took the QUIC connections %v, want %d", connections, test.want)
			}
			for i, v := range visits {
				if v.Statuses[421] != 0 || v.Broken != 0 {
					t.Errorf("visit %d: statuses %v, %d images broken", i+1, v.Statuses, v.Broken)
				}
			}
		})
	}
}

// apartOnHTTP3 lets Chromium visit a page with images of four hosts, each at an address
// of its own, four times.
func apartOnHTTP3(t *testing.T, origin string) []browser.Visit {
	t.Helper()
	const n = 4
	needBrowser(t, browser.Chromium)
	hosts := make(map[string]string)
	var addresses []string
	for i, host := range fourHosts {
		hosts[host] = fmt.Sprintf("127.0.0.%d", i+1)
		addresses = append(addresses, hosts[host])
	}
	site := fmt.Sprintf(` {
	bind %s
	log
	misdirected {
		scope certificate
	}
	%s
}
`, strings.Join(addresses, " "), imageSite(n))
	options := "servers {\n\t\tstrict_sni_host insecure_off\n\t\tlistener_wrappers {\n\t\t\torigin {\n\t\t\t\t" + origin + "\n\t\t\t}\n\t\t}\n\t}"
	c := startCaddy(t, options, strings.Join(fourHosts, ", ")+", *.site.test"+site, fourHosts[:1])
	ctx, done := browsing(t)
	defer done()
	visits, err := browser.Chromium.Visits(ctx, browser.Options{Home: t.TempDir(), Root: c.root(), Hosts: hosts},
		"https://"+fourHosts[0]+":"+c.port+"/page?visit=1", n, c.log.String)
	for i, v := range visits {
		t.Logf("visit %d: %v, by protocol %v", i+1, v, v.Protocols)
	}
	if err != nil {
		t.Fatal(err)
	}
	return visits
}
