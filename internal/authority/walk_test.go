package authority

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A routeMaker writes random lists of routes, nested ones and named ones in
// them, with guards here and there.
type routeMaker struct {
	*rand.Rand
	// hostsOnly: nothing but hosts decides which routes run, so that what can
	// run for a host does run.
	hostsOnly bool
	guards    int
	groups    int
}

var walkHosts = []string{"a.test", "b.test", "c.test", "a.x.test", "b.x.test"}

func (m *routeMaker) list(depth int) string {
	groups := []string{"shared"}
	if m.hostsOnly {
		m.groups++
		groups = []string{fmt.Sprint("g", m.groups)} // of this list alone
	}
	var texts []string
	for range 1 + m.IntN(4) {
		text := ""
		if m.IntN(3) > 0 {
			text += `"match":[` + m.matchers() + `],`
		}
		if m.IntN(3) == 0 {
			text += `"group":"` + groups[m.IntN(len(groups))] + `",`
		}
		if m.IntN(4) == 0 && (!m.hostsOnly || depth == 0) {
			text += `"terminal":true,`
		}
		texts = append(texts, `{`+text+`"handle":[`+m.handlers(depth)+`]}`)
	}
	return `[` + strings.Join(texts, ",") + `]`
}

func (m *routeMaker) matchers() string {
	patterns := append(slices.Clone(walkHosts), "*.test", "*.x.test", "*.*.test")
	var sets []string
	for range 1 + m.IntN(2) {
		two := m.Perm(len(patterns))[:2]
		set := fmt.Sprintf(`"host":["%s","%s"]`, patterns[two[0]], patterns[two[1]])
		if !m.hostsOnly {
			switch m.IntN(3) {
			case 0:
				set += `,"path":["/x"]`
			case 1:
				set = `"path":["/x"]`
			}
		}
		sets = append(sets, `{`+set+`}`)
	}
	return strings.Join(sets, ",")
}

func (m *routeMaker) handlers(depth int) string {
	var texts []string
	for range 1 + m.IntN(3) {
		switch n := m.IntN(8); {
		case n < 4:
			m.guards++
			texts = append(texts, fmt.Sprintf(`{"handler":"test_guard","name":"%d"}`, m.guards))
		case n < 6 && depth < 3:
			texts = append(texts, `{"handler":"subroute","routes":`+m.list(depth+1)+`}`)
		case n == 6 && depth < 4 && !m.hostsOnly: // a named route may lead to itself: only so deep
			texts = append(texts, fmt.Sprintf(`{"handler":"invoke","name":"n%d"}`, depth))
		case n == 7 && !m.hostsOnly:
			texts = append(texts, `{"handler":"static_response"}`)
		}
	}
	return strings.Join(texts, ",")
}

// server writes a server. The named route n<d> stands for depth d, so that it
// cannot be reached from below itself.
func (m *routeMaker) server() string {
	var named []string
	for depth := range 4 {
		if m.hostsOnly { // a named route that nothing leads to might run anywhere
			break
		}
		named = append(named, fmt.Sprintf(`"n%d":{"handle":[%s]}`, depth, m.handlers(depth+1)))
	}
	return `"tls_connection_policies":[{}],"named_routes":{` + strings.Join(named, ",") + `},"routes":[` + oneGuard + `,` + strings.Trim(m.list(0), "[]") + `]`
}

// ran returns the names of the guards that Caddy runs for a request.
func ran(srv *caddyhttp.Server, host, path string) map[string]bool {
	r := httptest.NewRequest("GET", path, nil)
	r.Host, r.TLS = host, &tls.ConnectionState{ServerName: host}
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, r)
	names := make(map[string]bool)
	for _, name := range w.Header()["Ran"] {
		names[name] = true
	}
	return names
}

// The walk agrees with Caddy itself over random routes: what runs for some
// request can run, what certainly runs does for every request, and where hosts
// alone decide, just that runs which can.
func TestWalkAsCaddyRuns(t *testing.T) {
	certainly, perhaps := 0, 0
	for seed := range uint64(150) {
		m := &routeMaker{Rand: rand.New(rand.NewPCG(seed, 9)), hostsOnly: seed%2 == 0}
		text := m.server()
		srv, snap := server(t, text)
		for _, host := range walkHosts {
			can := make(map[string]bool)
			snap.guards.each(host, func(g *Guard, certain bool) bool {
				can[guardNames[g]] = can[guardNames[g]] || certain
				return true
			})
			first, second := ran(srv, host, "/"), ran(srv, host, "/x")
			for name := range first {
				if _, ok := can[name]; !ok {
					t.Fatalf("guard %q runs for %s, which the walk does not see, in\n%s", name, host, text)
				}
			}
			for name := range second {
				if _, ok := can[name]; !ok {
					t.Fatalf("guard %q runs for %s/x, which the walk does not see, in\n%s", name, host, text)
				}
			}
			for name, certain := range can {
				if certain {
					certainly++
				} else {
					perhaps++
				}
				if certain && !(first[name] && second[name]) {
					t.Fatalf("guard %q does not run for each request to %s, though it is said to, in\n%s", name, host, text)
				}
				if m.hostsOnly && !first[name] {
					t.Fatalf("guard %q never runs for %s, though it is said to, in\n%s", name, host, text)
				}
			}
		}
	}
	if certainly < 500 || perhaps < 300 {
		t.Errorf("only %d guards ran certainly and %d perhaps: too few to tell", certainly, perhaps)
	}
}

// Every request passes a guard where that is said, though perhaps one of several.
func TestAlwaysAsCaddyRuns(t *testing.T) {
	always, never := 0, 0
	for seed := range uint64(300) {
		m := &routeMaker{Rand: rand.New(rand.NewPCG(seed, 11)), hostsOnly: seed%3 == 0}
		text := strings.Replace(m.server(), oneGuard, hostRoute("far.example", guardFor("")), 1)
		srv, snap := server(t, text)
		for _, host := range walkHosts {
			if !snap.guards.always(host) {
				never++
				continue
			}
			always++
			for _, path := range []string{"/", "/x"} {
				if len(ran(srv, host, path)) == 0 {
					t.Fatalf("no guard runs for %s%s, though one is said to always, in\n%s", host, path, text)
				}
			}
		}
	}
	if always < 200 || never < 200 {
		t.Errorf("%d times always, %d times not: too few to tell", always, never)
	}
	t.Logf("%d times always, %d times not", always, never)
}
