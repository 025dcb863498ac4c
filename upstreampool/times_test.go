package upstreampool

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
)

// counted returns the value of a metric of upstreampool, of a histogram the number of
// its samples; zero, if there is none with these labels. Ports are used again, and
// counts go on, so tests look at differences.
func counted(t testing.TB, name string, labels ...string) int {
	t.Helper()
	by := make(map[string]string)
	for i := 0; i < len(labels); i += 2 {
		by[labels[i]] = labels[i+1]
	}
	n, _ := metric(t, "caddy_upstreampool_"+name, by)
	return int(n)
}

// The time to the first byte is told by upstream and class of status. Of an attempt
// without a response there is none.
func TestTimeToFirstByte(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Query().Get("status"))
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	tr := newTransport(t, known)
	for _, test := range []struct {
		status int
		class  string
	}{
		{200, "2xx"}, {204, "2xx"}, {304, "3xx"}, {404, "4xx"}, {421, "4xx"}, {500, "5xx"}, {599, "5xx"}, {999, "other"}, {600, "other"},
	} {
		before := counted(t, "time_to_first_byte_seconds", "upstream", addr, "status", test.class)
		req := newRequest(t, "POST", addr, nil) // a GET with 421 would be sent again
		req.URL.RawQuery = fmt.Sprintf("status=%d", test.status)
		if status, _, err := send(tr, req); err != nil || status != test.status {
			t.Fatalf("status %d, %v; want %d", status, err, test.status)
		}
		attempts := 1
		if test.status == http.StatusMisdirectedRequest {
			attempts = 2
		}
		if n := counted(t, "time_to_first_byte_seconds", "upstream", addr, "status", test.class) - before; n != attempts {
			t.Errorf("status %d was counted %d times as %s, want %d", test.status, n, test.class, attempts)
		}
	}
	sum := func() (n int) {
		for _, class := range statusClasses {
			n += counted(t, "time_to_first_byte_seconds", "upstream", addr, "status", class)
		}
		return n
	}
	before := sum()
	if _, _, err := send(tr, newRequest(t, "POST", addr, nil)); err == nil {
		t.Fatal("no error")
	}
	if n := sum(); n != before {
		t.Errorf("an attempt without a response was counted %d times", n-before)
	}
}

// A ratio of failures needs both series before the first request has failed.
func TestStatusClassesFromTheStart(t *testing.T) {
	newRequestCounters("unheard-of.test:80")
	for class, want := range map[string]bool{"2xx": true, "5xx": true, "1xx": false, "3xx": false, "4xx": false, "other": false} {
		_, got := metric(t, "caddy_upstreampool_time_to_first_byte_seconds", map[string]string{"upstream": "unheard-of.test:80", "status": class})
		if got != want {
			t.Errorf("there is a series for %s: %v, want %v", class, got, want)
		}
	}
}

// Dials tell how long they took, and whether TLS resumed a session, also through a
// forward proxy.
func TestDialTimes(t *testing.T) {
	for _, test := range []struct {
		name          string
		change        func(t *testing.T, tr *Transport)
		full, resumed int
	}{
		{"plain", func(*testing.T, *Transport) {}, 0, 0},
		{"TLS", func(_ *testing.T, tr *Transport) { insecure(tr) }, 1, 2},
		{"TLS through a forward proxy", func(t *testing.T, tr *Transport) {
			insecure(tr)
			useProxy(tr, forwardProxy(t, new(sync.Map)).URL)
		}, 3, 0}, // by net/http, without a session cache
		{"TLS through a forward proxy with TLS", func(t *testing.T, tr *Transport) {
			insecure(tr)
			proxy := httptest.NewUnstartedServer(tunnels(new(sync.Map)))
			proxy.StartTLS()
			t.Cleanup(proxy.Close)
			useProxy(tr, proxy.URL)
		}, 3, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			if test.full > 0 {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			addr := srv.Listener.Addr().String()
			tr := newTransport(t, func(tr *Transport) {
				test.change(t, tr)
				tr.MaxRequests = 1
			})
			times := func() (dials, full, resumed int) {
				return counted(t, "dial_seconds", "upstream", addr),
					counted(t, "handshake_seconds", "upstream", addr, "session", "full"),
					counted(t, "handshake_seconds", "upstream", addr, "session", "resumed")
			}
			dials0, full0, resumed0 := times()
			for range 3 {
				mustSend(t, tr, newRequest(t, "GET", addr, nil))
			}
			dials, full, resumed := times()
			if n := dials - dials0; n != 3 {
				t.Errorf("%d dials were timed, want 3", n)
			}
			if full -= full0; full != test.full {
				t.Errorf("%d handshakes are full, want %d", full, test.full)
			}
			if resumed -= resumed0; resumed != test.resumed {
				t.Errorf("%d handshakes resumed a session, want %d", resumed, test.resumed)
			}
		})
	}
}

// Dials that fail are counted, and so are those that were started because another
// one took long.
func TestDialsAreCounted(t *testing.T) {
	s := serveRaw(t, echo)
	tr := newTransport(t, known)
	mustSend(t, tr, newRequest(t, "GET", s.addr(), nil))
	p := onlyPool(t, tr)
	dials := func() (failed, hedged int) {
		return counted(t, "dial_errors_total", "upstream", s.addr()), counted(t, "hedged_dials_total", "upstream", s.addr())
	}
	failed0, hedged0 := dials()
	p.DialFailed(nil)
	p.Hedged()
	p.Hedged()
	if failed, hedged := dials(); failed != failed0+1 || hedged != hedged0+2 {
		t.Errorf("%d dials failed, want 1; %d are hedges, want 2", failed-failed0, hedged-hedged0)
	}
}
