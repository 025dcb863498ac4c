package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/caddy-connreuse/connreuse/internal/test/browser"
	"github.com/caddy-connreuse/connreuse/internal/test/needs"
)

// A slowDNS answers every question for an IPv4 address with 127.0.0.1, but late.
type slowDNS struct {
	late time.Duration

	mu    sync.Mutex
	asked map[string]bool
}

// serve answers on port 53, the only one that a resolv.conf can name, of a loopback
// address of its own.
func (d *slowDNS) serve(t *testing.T, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", address+":53")
	if err != nil {
		t.Skipf("serving DNS: %v", err)
	}
	var answers sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done; answers.Wait() })
	d.asked = make(map[string]bool)
	go func() {
		defer close(done)
		for buf := make([]byte, 1500); ; {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			d.mu.Lock()
			d.asked[strings.TrimSuffix(q.Name.String(), ".")] = true
			d.mu.Unlock()
			m.Header.Response, m.Additionals = true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if reply, err := m.Pack(); err == nil {
				answers.Go(func() {
					time.Sleep(d.late)
					_, _ = conn.WriteTo(reply, from)
				})
			}
		}
	}()
}

func (d *slowDNS) askedFor(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[name]
}

// Hosts that a frame names begin without a lookup, however slow DNS is; the others
// wait for theirs.
//
// Checklist: O20.
func TestFramesOnHTTP3SpareLookups(t *testing.T) {
	needs.Root(t, "a resolv.conf for Chromium alone")
	needBrowser(t, browser.Chromium)
	const late = 2 * time.Second
	for i, test := range []struct {
		name, origin string
		spared       map[string]bool
	}{
		{"without frames", "origins sites", nil},
		{"with frames", "origins sites\n\t\t\t\thttp3", map[string]bool{"b.site.test": true, "c.site.test": true, "d.site.test": true}},
		{"one host is not listed", "origins https://a.site.test:{$PORT} https://b.site.test:{$PORT} https://c.site.test:{$PORT}\n\t\t\t\thttp3",
			map[string]bool{"b.site.test": true, "c.site.test": true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dns := &slowDNS{late: late}
			address := fmt.Sprintf("127.0.53.%d", i+1)
			dns.serve(t, address)
			options, sites := defaultCaddy{gates: all(gateCertificate), origin: test.origin}.caddyfile(1)
			c := startCaddy(t, options, sites, fourHosts[:1])
			resolv := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(resolv, []byte("nameserver "+address+"\noptions timeout:10\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var forced []string
			for _, host := range fourHosts {
				forced = append(forced, host+":"+c.port)
			}
			ctx, done := browsing(t)
			defer done()
			_, err := browser.Chromium.Visit(ctx, browser.Options{
				Home: t.TempDir(), Root: c.root(), Resolver: resolv,
				Flags: []string{"--origin-to-force-quic-on=" + strings.Join(forced, ",")},
			}, "https://"+fourHosts[0]+":"+c.port+"/page?visit=1", c.log.String)
			if err != nil {
				t.Fatal(err)
			}
			began := firstRequests(c)
			for _, host := range fourHosts[1:] {
				after := began[host].Sub(began[fourHosts[0]])
				t.Logf("%s: %v after the page, asked for: %v", host, after, dns.askedFor(host))
				if spared := test.spared[host]; spared == dns.askedFor(host) || spared != (after < late) {
					t.Errorf("%s begins %v after the page, and DNS was asked for it: %v", host, after, dns.askedFor(host))
				}
			}
		})
	}
}

// firstRequests returns when the first request for each host ended, by the access log.
func firstRequests(c *caddy) map[string]time.Time {
	first := make(map[string]time.Time)
	for line := range strings.SplitSeq(c.log.String(), "\n") {
		var entry struct {
			Msg     string
			TS      float64
			Request struct{ Host string }
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Msg != "handled request" {
			continue
		}
		host, _, _ := strings.Cut(entry.Request.Host, ":")
		if _, ok := first[host]; !ok {
			first[host] = time.UnixMicro(int64(entry.TS * 1e6))
		}
	}
	return first
}
