package upstreampool

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-connreuse/connreuse/internal/replay"
	"github.com/caddy-connreuse/connreuse/internal/test/fake"
)

func TestH2OverTLS(t *testing.T) {
	srv, conns := tlsServer(t, "h2")
	tr := newTransport(t, insecure)
	addr := srv.Listener.Addr().String()
	if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0 example.com" {
		t.Fatalf("answer = %q", got)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if _, _, err := send(tr, newRequest(t, "POST", addr, strings.NewReader("x"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 50 at once, want one", n)
	}
	p := onlyPool(t, tr)
	if st := p.snapshot(); st.Connections["busy"] != 0 || st.Connections["idle"] != 1 || st.Protocol != "h2" {
		t.Errorf("state = %+v", st)
	}
}

// Which protocol is spoken follows from versions, as with transport http.
func TestVersions(t *testing.T) {
	srv, _ := tlsServer(t, "h2", "http/1.1")
	for _, tc := range []struct {
		versions []string
		want     string
	}{
		{nil, "HTTP/2.0"},
		{[]string{"1.1", "2"}, "HTTP/2.0"},
		{[]string{"2"}, "HTTP/2.0"},
		{[]string{"h2c", "2"}, "HTTP/2.0"},
		{[]string{"1.1"}, "HTTP/1.1"},
	} {
		tr := newTransport(t, func(tr *Transport) { insecure(tr); tr.Versions = tc.versions })
		for range 2 {
			if got, _, _ := strings.Cut(mustSend(t, tr, newRequest(t, "GET", srv.Listener.Addr().String(), nil)), " "); got != tc.want {
				t.Errorf("versions %v: %s, want %s", tc.versions, got, tc.want)
			}
		}
		if st := onlyPool(t, tr).snapshot(); st.Opened != 1 {
			t.Errorf("versions %v: %d connections", tc.versions, st.Opened)
		}
	}
}

// An Upgrade goes over HTTP/1 even where HTTP/2 is spoken.
func TestUpgradeTowardsH2(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, r.Proto)
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		io.Copy(c, c)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	tr := newTransport(t, insecure)
	addr := srv.Listener.Addr().String()
	if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0" {
		t.Errorf("proto = %s", got)
	}
	req := newRequest(t, "GET", addr, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := tr.RoundTrip(req)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	rw := resp.Body.(io.ReadWriteCloser)
	io.WriteString(rw, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(rw, buf); err != nil || string(buf) != "ping" {
		t.Errorf("echo = %q, %v", buf, err)
	}
	rw.Close()
	if got := mustSend(t, tr, newRequest(t, "GET", addr, nil)); got != "HTTP/2.0" {
		t.Errorf("afterwards: proto = %s", got)
	}
}

// Where only HTTP/1 is spoken, an Upgrade is a request like any other: it takes
// connections that are there, and counts under the same max_conns_per_host.
func TestUpgradeTowardsHTTP1(t *testing.T) {
	plain := serveRaw(t, func(_ int64, c net.Conn, r *bufioReader) {
		for fake.ReadRequest(r) != nil {
			fake.Respond(c, "fine")
		}
	})
	secure, _ := tlsServer(t, "h2", "http/1.1")
	for name, tc := range map[string]struct {
		addr   string
		change func(*Transport)
		pools  int
	}{
		"plain":                {plain.addr(), known, 1},
		"TLS without HTTP/2":   {secure.Listener.Addr().String(), func(tr *Transport) { insecure(tr); tr.Versions = []string{"1.1"} }, 1},
		"TLS, perhaps HTTP/2":  {secure.Listener.Addr().String(), insecure, 2},
		"plain, with versions": {plain.addr(), func(tr *Transport) { known(tr); tr.Versions = []string{"1.1", "2"} }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, tc.change)
			upgrade := newRequest(t, "GET", tc.addr, nil)
			upgrade.Header.Set("Connection", "Upgrade")
			upgrade.Header.Set("Upgrade", "websocket")
			for _, req := range []*http.Request{newRequest(t, "GET", tc.addr, nil), upgrade, newRequest(t, "GET", tc.addr, nil)} {
				mustSend(t, tr, req)
			}
			var opened int64
			for _, p := range tr.core.all() {
				opened += p.snapshot().Opened
			}
			if n := len(tr.core.all()); n != tc.pools || opened != int64(tc.pools) {
				t.Errorf("%d connections of %d pools, want one of each of %d", opened, n, tc.pools)
			}
		})
	}
}

// What answers an Upgrade with HTTP/1.0 may still take a large body of unknown length
// over HTTP/2.
func TestNoLengthNeededTowardsH2(t *testing.T) {
	s := serveRaw(t, func(n int64, c net.Conn, r *bufioReader) {
		if start, _ := r.Peek(3); string(start) != "PRI" {
			fake.ReadRequest(r)
			io.WriteString(c, "HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
			return
		}
		fc := newFrameConn(c, r, n)
		for _, stream := range fc.requests() {
			fc.respond(stream, "h2") // without having read the body
		}
	})
	tr := newTransport(t, h2c)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	upgrade := newRequest(t, "GET", s.addr(), nil)
	upgrade.Header.Set("Connection", "Upgrade")
	upgrade.Header.Set("Upgrade", "websocket")
	if status, _, err := send(tr, upgrade); status != http.StatusServiceUnavailable {
		t.Fatalf("status %d, %v", status, err)
	}
	req := newRequest(t, "POST", s.addr(), io.NopCloser(strings.NewReader(strings.Repeat("a", replay.MaxKept+1))))
	req.ContentLength = -1
	if got := mustSend(t, tr, req); got != "h2" {
		t.Errorf("answer %q", got)
	}
}

// Checklist: P17.
func TestH2C(t *testing.T) {
	headers := make(chan http.Header, 2)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		fmt.Fprint(w, r.Proto)
	}))
	srv.Config.Protocols = &p
	srv.Start()
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	for versions, want := range map[string]string{"h2c": "HTTP/2.0", "1.1": "HTTP/1.1"} {
		for _, tc := range []struct {
			name                          string
			upgrade, connection, settings string
			passedOn                      string // of Upgrade
		}{
			{"as RFC 7540 had it", "h2c", "Upgrade, HTTP2-Settings", "AAMAAABkAAQAAP__", ""},
			{"as reverse_proxy leaves it", "h2c", "Upgrade", "", ""},
			{"beside another protocol", "h2c, websocket", "Upgrade", "", "websocket"},
		} {
			t.Run(versions+" "+tc.name, func(t *testing.T) {
				tr := newTransport(t, func(tr *Transport) { known(tr); tr.Versions = []string{versions} })
				req := newRequest(t, "GET", addr, nil)
				req.Header.Set("Connection", tc.connection)
				req.Header.Set("Upgrade", tc.upgrade)
				if tc.settings != "" {
					req.Header.Set("Http2-Settings", tc.settings)
				}
				want := want
				if tc.passedOn != "" {
					want = "HTTP/1.1"
				}
				if got := mustSend(t, tr, req); got != want {
					t.Errorf("proto %s, want %s", got, want)
				}
				h := <-headers
				if got := h.Get("Upgrade"); got != tc.passedOn {
					t.Errorf("Upgrade: %q was passed on, want %q", got, tc.passedOn)
				}
				if h.Get("Http2-Settings") != "" {
					t.Errorf("Http2-Settings: %q was passed on", h.Get("Http2-Settings"))
				}
				if tc.passedOn == "" && strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade") {
					t.Errorf("Connection: %q was passed on", h.Get("Connection"))
				}
				if req.Header.Get("Upgrade") != tc.upgrade {
					t.Error("the caller's header was changed")
				}
			})
		}
	}
}
