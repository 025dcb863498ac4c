package upstreampool

import (
	"testing"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/test/needs"
	"github.com/caddy-connreuse/connreuse/internal/test/servers"
)

// What TLS sends by itself, such as the session tickets of TLS 1.3 of which OpenSSL
// sends two, is not taken for a response that nobody asked for: all requests, one
// after the other, go on one connection, whether it was dialed for the first of them
// or kept warm.
func TestSessionTicketsCostNoConnection(t *testing.T) {
	goServer := func(t *testing.T) string {
		s, _ := tlsServer(t, "h2", "http/1.1")
		return s.Listener.Addr().String()
	}
	nginx := func(t *testing.T) string {
		needs.Program(t, servers.NginxH2.Program, servers.NginxH2.Package)
		s, err := servers.Start(t.TempDir(), servers.NginxH2, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Stop(false) })
		return s.Addr
	}
	for _, tc := range []struct {
		name     string
		serve    func(t *testing.T) string
		version  string
		protocol string
		warm     int
	}{
		{"Go", goServer, "1.1", "http/1.1", 0},
		{"Go, warm", goServer, "1.1", "http/1.1", 1},
		{"Go h2", goServer, "2", "h2", 0},
		{"Go h2, warm", goServer, "2", "h2", 1},
		{"nginx", nginx, "1.1", "http/1.1", 0},
		{"nginx, warm", nginx, "1.1", "http/1.1", 1},
		{"nginx h2", nginx, "2", "h2", 0},
		{"nginx h2, warm", nginx, "2", "h2", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := tc.serve(t)
			tr := newTransport(t, func(tr *Transport) {
				insecure(tr)
				tr.Versions, tr.MinIdle = []string{tc.version}, tc.warm
			})
			for i := range 100 {
				mustSend(t, tr, newRequest(t, "GET", addr, nil))
				if i%10 == 0 {
					time.Sleep(2 * time.Millisecond) // old enough for a look into its socket
				}
			}
			st := onlyPool(t, tr).snapshot()
			if st.Opened > int64(1+tc.warm) || len(st.Closes) > 0 || st.Protocol != tc.protocol {
				t.Errorf("%d connections for 100 requests, want %d; %+v", st.Opened, 1+tc.warm, st)
			}
		})
	}
}
